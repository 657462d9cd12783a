"""How long `llamacli --help` takes, beside an empty Python: whole processes, in turn.

python -m bench.help [--runs 20]
"""

import subprocess
import sys
import time

from bench.compare import Outcome, Setup, Target, figure, in_turn, run_alone

COMMANDS = {"`llamacli --help`": ["-m", "llamacli", "--help"], "an empty Python": ["-c", "pass"]}


def milliseconds(arguments: list[str]) -> float:
    """Wall time of one whole process."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return 1000 * (time.perf_counter() - started)


def measure(setup: Setup) -> Outcome:
    ways = {name: lambda given=given: milliseconds(given) for name, given in COMMANDS.items()}
    results = in_turn(ways, setup.times(20))
    ours, empty = COMMANDS
    figures = (
        figure(ours, "ms", results[ours], Target(200, most=True)),
        figure(empty, "ms", results[empty]),
    )
    return Outcome("Start of `--help`", figures)


if __name__ == "__main__":
    run_alone(measure, __doc__)
