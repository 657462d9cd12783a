"""How long `llamacli tokens --find` takes over 128,256 tokens, in a GGUF file and in a folder.

    python -m bench.vocabulary [--runs N]

The tokens are made up, as many as Llama 3 has; beside whole processes of it an empty Python's.
"""

from pathlib import Path

from bench.checkpoint import shape_config, write_checkpoint
from bench.compare import Outcome, Setup, Target, figure, in_turn, run_alone
from bench.help import milliseconds
from convert import convert

TOKENS = 128_256
MOST = 1500  # milliseconds


def measure(setup: Setup) -> Outcome:
    folder = setup.folder / "vocabulary"
    ways = {
        "`tokens MODEL.gguf --find`": find_in(made_file(folder)),
        "`tokens FOLDER --find`": find_in(folder),
        "an empty Python": ["-c", "pass"],
    }
    found = in_turn(
        {name: lambda given=given: milliseconds(given) for name, given in ways.items()},
        setup.times(10),
    )
    *ours, empty = ways
    figures = [figure(name, "ms", found[name], Target(MOST, most=True)) for name in ours]
    return Outcome(
        "Search in a vocabulary of 128,256 tokens",
        (*figures, figure(empty, "ms", found[empty])),
    )


def find_in(source: Path) -> list[str]:
    return ["-m", "llamacli", "tokens", str(source), "--find", "ab"]


def made_file(folder: Path) -> Path:
    """A GGUF file beside a checkpoint in folder, both with all tokens and next to no weights."""
    config = shape_config("tiny", vocab_size=TOKENS, tie_word_embeddings=True)
    write_checkpoint(folder, config, sparse=True)
    target = folder.with_suffix(".gguf")
    convert(folder, target, "Q8_0")
    return target


if __name__ == "__main__":
    run_alone(measure, __doc__)
