"""The program's first lines: Ctrl-C, while the rest is imported, ends it without Python's words."""

import gc
import signal
from typing import NoReturn

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

# At its usual pace, collecting takes a sixth of a short run: what is imported stays.
gc.set_threshold(100_000)


def start() -> NoReturn:
    from llamacli import cli

    cli.start()


if __name__ == "__main__":
    start()
