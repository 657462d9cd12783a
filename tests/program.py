"""The program run to its end, as subprocess.run does it, but mostly without a new Python.

A new one takes 0.2 s of processor time to import what a command needs, and the tests start over a
thousand. Here a process that has it already (tests/standins/preloaded.py) is forked instead, but
for what Python or a library reads of the environment as it starts.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from multiprocessing import get_all_start_methods, get_context, reduction
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

from llamacli.machine import find_devices
from tests.standins import forked
from tests.standins.waiting import PATIENCE
from tests.systems import PLATFORM
from tests.terminal import PROGRAM

# A GPU's driver doesn't outlive a fork.
CPU_ALONE = all(device.kind == "cpu" for device in find_devices())
FORKS = PLATFORM == sys.platform == "linux" and CPU_ALONE
# One process that is forked, for tests/moments.py, too, which does so on every system that can.
CONTEXT = get_context("forkserver" if "forkserver" in get_all_start_methods() else "spawn")
if isinstance(CONTEXT, ForkServerContext):
    CONTEXT.set_forkserver_preload(["tests.moments", *["tests.standins.preloaded"] * FORKS])
STARTED = dict(os.environ)
# Of the environment, what is read by the program alone, or as late as it is used.
READ_LATE = ("COLUMNS", "HF_", "HOME", "LLAMACLI_", "NO_COLOR", "PWD", "PYTEST_", "TERM", "XDG_")


def run_program(
    command: Sequence[str | Path],
    *,
    input: bytes | str = b"",  # noqa: A002 - as subprocess.run has it
    text: bool = False,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float = PATIENCE,
) -> "subprocess.CompletedProcess[Any]":
    """What subprocess.run gives for PROGRAM and its arguments; both outputs are captured."""
    called, arguments = command[: len(PROGRAM)], [*map(str, command[len(PROGRAM) :])]
    assert tuple(called) == PROGRAM
    environment = dict(os.environ if env is None else env)
    data = input.encode() if isinstance(input, str) else input
    with ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(3)]
        files[0].write(data)
        files[0].seek(0)
        if FORKS and not _read_at_start(environment):
            given = arguments, environment, str(cwd or Path.cwd())
            code = _fork(*given, [file.fileno() for file in files], timeout)
        else:
            code = subprocess.run(
                [*PROGRAM, *arguments],
                stdin=files[0],
                stdout=files[1],
                stderr=files[2],
                env=environment,
                cwd=cwd,
                timeout=timeout,
            ).returncode
        for file in files[1:]:
            file.seek(0)
        outputs = [file.read() for file in files[1:]]
    return subprocess.CompletedProcess(
        [*PROGRAM, *arguments], code, *(map(_as_text, outputs) if text else outputs)
    )


def _fork(
    arguments: list[str],
    environment: dict[str, str],
    folder: str,
    descriptors: list[int],
    timeout: float,
) -> int:
    """The exit code of the program, forked; raises TimeoutExpired as subprocess.run does."""
    child = CONTEXT.Process(
        target=forked.start, args=(arguments, environment, folder, _Streams(descriptors))
    )
    child.start()
    child.join(timeout)
    if child.exitcode is None:
        child.kill()
        raise subprocess.TimeoutExpired(arguments, timeout)
    return child.exitcode


class _Streams:
    """Descriptors that a process is sent while it is started."""

    def __init__(self, descriptors: list[int]) -> None:
        self.descriptors = descriptors

    def __reduce__(self) -> tuple[Any, ...]:
        return list, ([reduction.DupFd(descriptor) for descriptor in self.descriptors],)


def _as_text(output: bytes) -> str:
    return output.decode().replace("\r\n", "\n").replace("\r", "\n")  # as subprocess has it


def _read_at_start(environment: Mapping[str, str]) -> bool:
    """Whether something differs of what is read before the program has begun."""
    return any(
        environment.get(name) != STARTED.get(name)
        for name in environment.keys() | STARTED.keys()
        if not name.startswith(READ_LATE)
    )
