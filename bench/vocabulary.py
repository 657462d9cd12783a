"""How long `llamacli tokens --find` takes over a whole vocabulary, beside an empty Python.

    python -m bench.vocabulary [--runs 10]

A GGUF file and a checkpoint are searched, both with Llama 3's number of tokens, 128,256, made up.
"""

from pathlib import Path

from bench.compare import Outcome, Setup, figure, in_turn, run_alone
from bench.help import milliseconds
from convert import convert
from tests.standins.checkpoint import shape_config, write_checkpoint

TOKENS = 128_256


def make_models(folder: Path) -> list[Path]:
    """A checkpoint with that many tokens and next to no weights, and a GGUF file of it."""
    config = shape_config("tiny", vocab_size=TOKENS, tie_word_embeddings=True)
    write_checkpoint(folder / "checkpoint", config, sparse=True)
    convert(folder / "checkpoint", folder / "model.gguf", "Q8_0")
    return [folder / "model.gguf", folder / "checkpoint"]


def measure(setup: Setup) -> Outcome:
    commands = {
        f"`tokens {model.name} --find a`": ["-m", "llamacli", "tokens", str(model), "--find", "a"]
        for model in make_models(setup.folder / "vocabulary")
    }
    commands["an empty Python"] = ["-c", "pass"]
    ways = {name: lambda given=given: milliseconds(given) for name, given in commands.items()}
    results = in_turn(ways, setup.times(10))
    figures = tuple(figure(name, "ms", values) for name, values in results.items())
    return Outcome("A search of the vocabulary", figures)


if __name__ == "__main__":
    run_alone(measure, __doc__)
