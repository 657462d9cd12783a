"""The program in a process that was forked for it."""

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn


def start(
    arguments: Sequence[str], environment: Mapping[str, str], folder: str, streams: Sequence[Any]
) -> NoReturn:
    """Run it; streams are multiprocessing's descriptors of stdin, stdout and stderr."""
    for number, stream in enumerate(streams):
        os.dup2(stream.detach(), number)
    sys.stdin, sys.stdout = open(0), open(1, "w")  # noqa: SIM115 - as Python opens them
    sys.stderr = open(2, "w", errors="backslashreplace", buffering=1)  # noqa: SIM115
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["llamacli", *arguments]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    from llamacli import cli

    cli.start()
