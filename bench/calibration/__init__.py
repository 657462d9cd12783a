"""Make the calibration text that ships: python -m bench.calibration

Pieces of many kinds in turn, so that the first chunks are a mixture already: prose in 27 languages
and code in 16, both written for it (prose.txt, code.txt), this project's own pages and modules, and
exercises, tables and logs that are made up here. All of it has this repository's licence, as have
the dialogues beside it (llamacli/quality/dialogues.json), which go through each model's template.
"""
