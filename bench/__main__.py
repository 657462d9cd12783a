"""python -m bench: every comparison, one after the other, into docs/performance.md and its plots.

    python -m bench [--only NAME] [--model FILE] [--runs N] [--quick]

With --only the others' figures stay as they are in docs/performance.json. With --quick the tables
go to stdout and nothing is written.
"""

import argparse
import importlib

from bench.compare import add_options, set_up, table
from bench.report import read_report, write_report

NAMES = (
    *("help", "overhead", "steps", "oneshot", "prefill", "decode", "growth", "memory_fit"),
    *("chat_turns", "resume", "prompt_cache", "batch", "vocabulary", "quantizers", "conversion"),
    *("streaming", "imatrix"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", choices=NAMES, action="append", help="may be given again")
    arguments = add_options(parser).parse_args()
    report = {} if arguments.quick else read_report()
    with set_up(arguments) as setup:
        for name in arguments.only or NAMES:
            outcome = importlib.import_module(f"bench.{name}").measure(setup)
            print(f"\n## {outcome.title}\n\n{table(outcome)}", flush=True)
            if not setup.quick:
                report[name] = outcome
                write_report({name: report[name] for name in NAMES if name in report})


if __name__ == "__main__":
    main()
