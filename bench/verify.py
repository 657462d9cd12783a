"""How fast a file's tensors are compared with the checkpoint's, next to reading both files.

    python -m bench.verify FILE CHECKPOINT [--runs 3]

Both read the same bytes by the same pieces; the ratio says how close the comparison is to what
the disk or the page cache gives. Prints medians, parameters a second, and the peak of memory.
"""

import argparse
import statistics
import time
from pathlib import Path

from convert.checkpoint import open_checkpoint
from llamacli.gguf.file import read_gguf
from llamacli.system import peak_resident
from llamacli.verify.tensors import compare, match


def read_all(paths: list[Path]) -> None:
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while file.read(1 << 20):
                pass


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    pairs, problems = match(read_gguf(arguments.file), open_checkpoint(arguments.checkpoint))
    if problems:
        parser.error(problems[0])
    paths = [arguments.file, *arguments.checkpoint.glob("*.safetensors")]
    parameters = sum(pair.spec.parameters for pair in pairs)
    seconds: dict[str, list[float]] = {"read both": [], "compare": []}
    for _ in range(arguments.runs):
        started = time.perf_counter()
        read_all(paths)
        between = time.perf_counter()
        compare(pairs, arguments.threads)
        seconds["read both"].append(between - started)
        seconds["compare"].append(time.perf_counter() - between)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    for name, value in medians.items():
        print(f"{name:10} {value:7.2f} s  {parameters / value / 1e6:8.0f} M parameters/s")
    print(f"ratio      {medians['compare'] / medians['read both']:7.2f}")
    print(f"peak       {peak_resident() >> 20} MiB")


if __name__ == "__main__":
    main()
