"""What most commands import, for the process that tests/standins/program.py forks the program from.

Nothing of it reads the environment as it is imported, as huggingface_hub does.
"""

import importlib

from llamacli.machine import load_library

for name in (
    *("answer.generation", "batch.scheduler", "chat.turns", "cli", "commands.options"),
    *("engine.engine", "models.opening", "models.registry", "prompt.encode"),
    *("shape.grammar", "speculate.lookahead", "serve.run", "tools.constraint", "tune.profiles"),
):
    importlib.import_module(f"llamacli.{name}")
for name in (
    *("gguf", "numpy", "convert.pipeline", "convert.tokenizer", "platformdirs.unix", "psutil"),
    *("httpcore2", "h11", "anyio._backends._asyncio", "filelock", "tqdm.auto"),  # the Hub's
):
    importlib.import_module(name)
load_library()
