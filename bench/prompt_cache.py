"""Time to the first byte of an answer with a cached prompt's start, and without.

    python -m bench.prompt_cache [--model FILE] [--runs 3]

Whole processes are timed, from their start to the first byte on stdout. What is piped below the
instruction is new each time.
"""

import itertools
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.compare import Outcome, Setup, Target, figure, in_turn, ratio, run_alone

PREFIX = 2000  # tokens of the instruction, at least


def instruction(model: Path, tokens: int) -> str:
    """Made-up words of at least that many tokens."""
    from llamacli.engine.model import load_vocabulary

    vocabulary = load_vocabulary(model)
    words: list[str] = []
    while len(vocabulary.tokenize(" ".join(words))) < tokens:
        words += [f"word{len(words) + i} is a word" for i in range(16)]
    return " ".join(words)


def first_byte(model: Path, prompt: str, text: str, home: Path, *options: str) -> float:
    """Seconds from the start of `llamacli run` to its first byte."""
    command = [sys.executable, "-m", "llamacli", "run", "-m", str(model), "-c", "8192", "--temp"]
    command += ["0", "-n", "8", *options, prompt]
    with tempfile.TemporaryFile() as source:
        source.write(text.encode())
        source.seek(0)
        started = time.perf_counter()
        with subprocess.Popen(
            command,
            stdin=source,
            stdout=subprocess.PIPE,
            env={**os.environ, "LLAMACLI_HOME": str(home)},
        ) as child:
            assert child.stdout is not None
            assert child.stdout.read(1), "no answer came"
            seconds = time.perf_counter() - started
            child.stdout.read()
    return seconds


def measure(setup: Setup) -> Outcome:
    model, tokens = setup.model(), 200 if setup.quick else PREFIX
    prompt, home = instruction(model, tokens), setup.folder / "store"
    first_byte(model, prompt, "to fill the cache", home, "--cache", "auto")
    size = sum(path.stat().st_size for path in (home / "cache").iterdir())
    number = itertools.count()
    ways = {
        "cached": lambda: first_byte(
            model, prompt, f"text {next(number)}", home, "--cache", "auto"
        ),
        "read anew": lambda: first_byte(model, prompt, f"text {next(number)}", home),
    }
    results = in_turn(ways, setup.times(3))
    return Outcome(
        "A long instruction kept on disk, 1B shape",
        tuple(figure(f"{name}, first byte", "seconds", values) for name, values in results.items()),
        (
            ratio(
                "cached to read anew",
                results["cached"],
                results["read anew"],
                Target(0.15, most=True),
            ),
        ),
        f"A start of {tokens} tokens, {size / 1e6:.0f} MB on disk.",
    )


if __name__ == "__main__":
    run_alone(measure, __doc__)
