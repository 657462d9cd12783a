"""Time to the first byte of an answer with a cached prompt's start, and without.

    python -m bench.prompt_cache [--model FILE] [--prefix 2000] [--runs 3]

Whole processes are timed, from their start to the first byte on stdout, in turn. The instruction
has at least that many tokens; what is piped below it is new each time.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.checkpoint import shape_config, write_checkpoint
from convert import convert


def instruction(model: Path, tokens: int) -> str:
    """Made-up words of at least that many tokens."""
    from llamacli.loading import load_vocabulary

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


def compare(model: Path, prefix: int, runs: int) -> str:
    """A Markdown table of both times."""
    prompt = instruction(model, prefix)
    cached, plain = [], []
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        first_byte(model, prompt, "to fill the cache", home, "--cache", "auto")
        size = sum(path.stat().st_size for path in (home / "cache").iterdir())
        for i in range(runs):
            plain.append(first_byte(model, prompt, f"text {i}", home))
            cached.append(first_byte(model, prompt, f"text {i}", home, "--cache", "auto"))
    ratios = sorted(a / b for a, b in zip(cached, plain, strict=True))
    rows = [
        "| | seconds to the first byte | lowest | highest |",
        "| --- | ---: | ---: | ---: |",
        f"| cached | {statistics.median(cached):.2f} | {min(cached):.2f} | {max(cached):.2f} |",
        f"| read anew | {statistics.median(plain):.2f} | {min(plain):.2f} | {max(plain):.2f} |",
        "",
        f"A start of {prefix} tokens, {size / 1e6:.0f} MB on disk, medians of {runs}. Ratio: "
        f"{statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f}).",
    ]
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", type=Path, help="a GGUF file; without it, one of 1B shape")
    parser.add_argument("--prefix", type=int, default=2000)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.model is not None:
        print(compare(arguments.model, arguments.prefix, arguments.runs))
        return
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(Path(folder) / "checkpoint", shape_config("1b"))
        convert(Path(folder) / "checkpoint", Path(folder) / "1b.gguf", "Q4_K_M")
        print(compare(Path(folder) / "1b.gguf", arguments.prefix, arguments.runs))


if __name__ == "__main__":
    main()
