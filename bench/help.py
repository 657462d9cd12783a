"""How long `llamacli --help` takes, beside an empty Python: whole processes, in turn.

python -m bench.help [--runs 20]
"""

import argparse
import statistics
import subprocess
import sys
import time


def seconds(command: list[str]) -> float:
    """Wall time of one whole process."""
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--runs", type=int, default=20)
    runs = parser.parse_args().runs
    help_command = [sys.executable, "-m", "llamacli", "--help"]
    empty = [sys.executable, "-c", "pass"]
    pairs = [(seconds(help_command), seconds(empty)) for _ in range(runs)]
    ours = statistics.median(pair[0] for pair in pairs) * 1000
    python = statistics.median(pair[1] for pair in pairs) * 1000
    print("| | milliseconds |\n| --- | ---: |")
    print(f"| `llamacli --help` | {ours:.0f} |\n| an empty Python | {python:.0f} |")


if __name__ == "__main__":
    main()
