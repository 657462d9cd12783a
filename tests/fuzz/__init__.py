"""Hostile files: seeded mutants of every kind of file that llamacli reads, and its commands.

    python -m tests.fuzz --count 10000

`mutate` and `gguf_file` bend files, `kinds` says which files and which commands, `worker` runs the
commands under limits, `harness` watches the workers.
"""
