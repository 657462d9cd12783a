"""How long `llamacli tokens --find` takes over a whole vocabulary, beside an empty Python.

    python -m bench.vocabulary [MODEL …] [--runs 10]

MODEL is a GGUF file or a checkpoint's folder. Without one, both are made with Llama 3's number of
tokens, 128,256, made up.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from bench.checkpoint import shape_config, write_checkpoint
from bench.help import seconds
from convert import convert

TOKENS = 128_256


def make_models(folder: Path) -> list[Path]:
    """A checkpoint with that many tokens and next to no weights, and a GGUF file of it."""
    config = shape_config("tiny", vocab_size=TOKENS, tie_word_embeddings=True)
    write_checkpoint(folder / "checkpoint", config, sparse=True)
    convert(folder / "checkpoint", folder / "model.gguf", "Q8_0")
    return [folder / "model.gguf", folder / "checkpoint"]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--runs", type=int, default=10)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        models = arguments.models or make_models(Path(folder))
        commands = {
            f"`tokens {model.name} --find a`": [
                *(sys.executable, "-m", "llamacli", "tokens", str(model), "--find", "a"),
            ]
            for model in models
        }
        commands["an empty Python"] = [sys.executable, "-c", "pass"]
        rounds = [{n: seconds(c) for n, c in commands.items()} for _ in range(arguments.runs)]
    print("| | milliseconds | slowest |\n| --- | ---: | ---: |")
    for name in commands:
        taken = [measured[name] * 1000 for measured in rounds]
        print(f"| {name} | {statistics.median(taken):.0f} | {max(taken):.0f} |")


if __name__ == "__main__":
    main()
