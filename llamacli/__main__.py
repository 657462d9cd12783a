"""The program's first lines: Ctrl-C, while the rest is imported, ends it without Python's words."""

import signal
from typing import NoReturn

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start() -> NoReturn:
    from llamacli import cli

    cli.start()


if __name__ == "__main__":
    start()
