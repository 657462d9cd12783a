"""Made-up files and services that tests and benchmarks share.

- `checkpoint`: of any shape, with made-up weights; also `python -m tests.standins.checkpoint`
- `tiny`, `sparse`, `hollow`: GGUF files that are small, that are large without taking disk
  space, and that have a whole header and no weights
- `rewritten`: a GGUF file with something in it changed
- `hub`: the Hugging Face Hub and its CDN, on local ports

It imports nothing else of tests or bench, and bench imports nothing else of tests.
"""
