"""python -m tests.fuzz [--count N] [--first N] [KIND …]: read mutants; exit code 1 with faults."""

import argparse
import sys

from tests.fuzz.harness import fuzz
from tests.fuzz.kinds import KINDS

parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
parser.add_argument("kinds", nargs="*", metavar="KIND", help=", ".join(KINDS))
parser.add_argument("--count", type=int, default=10_000, help="mutants of each kind")
parser.add_argument("--first", type=int, default=0, help="the first one's number, its seed")
arguments = parser.parse_args()
if unknown := set(arguments.kinds) - set(KINDS):
    parser.error(f"no such kind: {', '.join(sorted(unknown))}")
faults = 0
for kind in arguments.kinds or KINDS:
    end = arguments.first + arguments.count
    outcome = fuzz(kind, arguments.first, end, lambda fault: print(f"  {fault}", flush=True))
    codes = ", ".join(f"{code}: {count}" for code, count in sorted(outcome.codes.items()))
    print(f"{kind}: {outcome.mutants} mutants, exit codes {codes}", flush=True)
    faults += len(outcome.faults)
sys.exit(1 if faults else 0)
