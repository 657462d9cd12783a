"""The program, run to its end or started, as subprocess does it, but mostly without a new Python.

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
from pathlib import Path
from typing import IO, Any

from llamacli.machine import find_devices
from tests.standins import forked
from tests.standins.waiting import PATIENCE

PROGRAM = (sys.executable, "-m", "llamacli")
# A GPU's driver doesn't outlive a fork.
CPU_ALONE = all(device.kind == "cpu" for device in find_devices())
FORKS = sys.platform == "linux" and "LLAMACLI_SYSTEM" not in os.environ and CPU_ALONE
# One process that is forked, for tests/moments.py, too, which does so on every system that can.
CAN = "forkserver" in get_all_start_methods()
CONTEXT: Any = get_context("forkserver" if CAN else "spawn")
if CAN:
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
        if can_fork(environment):
            streams = [file.fileno() for file in files]
            child = Program(arguments, environment, str(cwd or Path.cwd()), streams)
            try:
                code = child.wait(timeout)
            except subprocess.TimeoutExpired:
                child.kill()
                raise
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


class Program:
    """A forked program, as far as tests ask what subprocess.Popen gives."""

    def __init__(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        folder: str,
        descriptors: Sequence[int],
        stderr: IO[bytes] | None = None,
        *,
        leads: bool = False,
    ) -> None:
        given = [*arguments], dict(environment), folder, _Streams(descriptors), leads
        self.stderr = stderr
        self._process = CONTEXT.Process(target=forked.start, args=given)
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float = PATIENCE) -> int:
        self._process.join(timeout)
        if (code := self.poll()) is None:
            raise subprocess.TimeoutExpired("llamacli", timeout)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        if self.poll() is None:
            self._process.kill()


def start_program(
    arguments: Sequence[str], environment: Mapping[str, str]
) -> "Program | subprocess.Popen[bytes]":
    """What subprocess.Popen gives for PROGRAM and these arguments; stderr is a pipe."""
    if not can_fork(environment):
        command = [*PROGRAM, *arguments]
        return subprocess.Popen(command, stderr=subprocess.PIPE, env=environment)
    reading, writing = os.pipe()
    try:
        streams = 0, 1, writing
        return Program(arguments, environment, str(Path.cwd()), streams, os.fdopen(reading, "rb"))
    finally:
        os.close(writing)


class _Streams:
    """Descriptors that a process is sent while it is started."""

    def __init__(self, descriptors: Sequence[int]) -> None:
        self.descriptors = descriptors

    def __reduce__(self) -> tuple[Any, ...]:
        return list, ([reduction.DupFd(descriptor) for descriptor in self.descriptors],)


def _as_text(output: bytes) -> str:
    return output.decode().replace("\r\n", "\n").replace("\r", "\n")  # as subprocess has it


def can_fork(environment: Mapping[str, str]) -> bool:
    """Whether nothing differs of what is read before the program has begun."""
    return FORKS and all(
        environment.get(name, "") == STARTED.get(name, "")
        for name in environment.keys() | STARTED.keys()
        if not name.startswith(READ_LATE)
    )
