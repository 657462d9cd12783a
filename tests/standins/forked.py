"""The program in a process that was forked for it."""

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn


def start(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    folder: str,
    streams: Sequence[Any],
    leads: bool,
) -> NoReturn:
    """Run it; streams are multiprocessing's descriptors of stdin, stdout and stderr.

    leads says that it leads a session of its own, whose terminal stdin is.
    """
    for number, stream in enumerate(streams):
        os.dup2(given := stream.detach(), number)
        os.close(given)
    if leads:
        import fcntl
        import termios

        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    sys.stdin, sys.stdout = open(0), open(1, "w")  # noqa: SIM115 - as Python opens them
    sys.stderr = open(2, "w", errors="backslashreplace", buffering=1)  # noqa: SIM115
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["llamacli", *arguments]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    from llamacli import cli

    cli.start()
