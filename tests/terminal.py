"""A terminal for tests: the program in a pseudo-terminal, and the screen that it draws, by pyte.

Where the system has none, the tests that ask for one are skipped.
"""

import io
import os
import select
import signal
import struct
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyte
import pytest

from tests.standins.program import PROGRAM, Program, can_fork
from tests.standins.waiting import PATIENCE
from tests.systems import WINDOWS

ENCODING = os.environ.get("PYTHONIOENCODING", "utf-8")  # of what the program writes


def _module(name: str) -> Any:
    return pytest.importorskip(name, reason="there are no pseudo-terminals here")


@contextmanager
def open_terminal() -> Iterator[tuple[int, int]]:
    """A terminal as descriptors: what is shown is read from the first; a program has the second."""
    master, slave = _module("pty").openpty()
    try:
        yield master, slave
    finally:
        os.close(master)


def on_terminal(
    command: Sequence[str | Path],
    stdin: int | None = subprocess.DEVNULL,
    stdout: int | None = None,
    stderr: int | None = None,
    **env: str,
) -> tuple[bytes, "subprocess.Popen[bytes]"]:
    """What a program shows on the terminal that its stdout and stderr are, unless they are given,
    and the program, which has ended."""
    with open_terminal() as (master, slave):
        child = subprocess.Popen(
            [*map(str, command)],
            stdin=stdin,
            stdout=slave if stdout is None else stdout,
            stderr=slave if stderr is None else stderr,
            env={**os.environ, "TERM": "xterm", **env},
        )
        os.close(slave)
        seen = b""
        while select.select([master], [], [], PATIENCE)[0]:
            try:
                data = os.read(master, 1 << 16)
            except OSError:  # Linux tells the end so
                break
            if not data:
                break
            seen += data
        child.wait(PATIENCE)
        return seen, child


class Screen(io.TextIOWrapper):
    """A stream that says that it is a terminal and keeps what is written."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), "utf-8", newline="")

    def isatty(self) -> bool:
        return True

    def text(self) -> str:
        self.flush()
        return bytes(self.buffer.getvalue()).decode()  # type: ignore[attr-defined]


def _resize(descriptor: int, columns: int, rows: int) -> None:
    request = _module("termios").TIOCSWINSZ
    _module("fcntl").ioctl(descriptor, request, struct.pack("HHHH", rows, columns, 0, 0))


class Terminal:
    """A child process on a terminal of its own, which answers as xterm does."""

    def __init__(
        self, command: Sequence[str], columns: int = 100, rows: int = 30, **env: str
    ) -> None:
        if WINDOWS:  # stood in for, too: what draws and reads keys there is the console's own
            pytest.skip("there are no pseudo-terminals here")
        self.screen = pyte.HistoryScreen(columns, rows, history=10_000, ratio=1)
        self.screen.write_process_input = self.type
        self.stream = pyte.ByteStream(self.screen)
        self.raw = b""
        self.status: int | None = None
        # COLUMNS, which xdist sets, would win over what the terminal says.
        environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "", **env}
        environment = {name: value for name, value in environment.items() if value}
        self.program: Program | None = None
        if tuple(command[: len(PROGRAM)]) == PROGRAM and can_fork(environment):
            self.file, slave = _module("pty").openpty()
            self.resize(columns, rows)  # before anything looks
            given = command[len(PROGRAM) :], environment, str(Path.cwd())
            self.program = Program(*given, [slave] * 3, leads=True)
            self.pid = self.program.pid
            os.close(slave)
        else:
            self.pid, self.file = _module("pty").fork()
            if self.pid == 0:
                _resize(0, columns, rows)
                os.execvpe(command[0], list(command), environment)

    def resize(self, columns: int, rows: int) -> None:
        self.screen.resize(rows, columns)
        _resize(self.file, columns, rows)

    def type(self, text: str) -> None:
        os.write(self.file, text.encode())

    def line(self, text: str) -> None:
        """Type a line and Enter."""
        self.type(text + "\r")

    def wait(self, text: str, seconds: float = PATIENCE) -> None:
        """Read until the text stands on the screen or above it."""
        self.until(lambda: text in self.text, f"{text!r}", seconds)

    def prompt(self, mark: str = ">>>") -> None:
        """Read until the last line that isn't empty is a prompt without text behind it."""
        self.until(lambda: self.shown[-1:] == [mark], "a prompt")

    def ask(self, text: str, answer: str) -> None:
        """Type a line, and read until its answer, once more, and then the prompt have come."""
        before = self.text.count(answer)
        self.line(text)
        self.until(lambda: self.text.count(answer) > before, repr(answer))
        self.prompt()

    def until(self, holds: Callable[[], bool], what: str, seconds: float = PATIENCE) -> None:
        end = time.monotonic() + seconds
        while not holds():
            alive = self.read(end - time.monotonic())
            assert alive or holds(), f"{what} never came:\n{self.text}"

    def read(self, seconds: float) -> bool:
        """Take what comes within that time; False at the child's end, or if nothing comes."""
        if not select.select([self.file], [], [], max(0, seconds))[0]:
            return False
        try:
            data = os.read(self.file, 1 << 16)
        except OSError:  # Linux's way to say that no one has the terminal open any more
            return False
        self.raw += data
        self.stream.feed(data)
        return bool(data)

    def leave(self) -> int:
        """Read to the child's end; its exit code, as a shell has it."""
        end = time.monotonic() + PATIENCE
        while self.read(end - time.monotonic()):
            pass
        assert time.monotonic() < end, f"it doesn't leave:\n{self.text}"
        return self.wait_child()

    def wait_child(self) -> int:
        if self.status is None:
            if self.program is not None:
                code = self.program.wait()
            else:
                code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            self.status = code if code >= 0 else 128 - code
            os.close(self.file)
        return self.status

    def kill(self, number: int | None = None) -> None:
        os.kill(self.pid, signal.SIGKILL if number is None else number)

    def close(self) -> None:
        if self.status is None:
            self.kill()
            self.wait_child()

    @property
    def lines(self) -> list[str]:
        """All lines, those that have scrolled away first."""
        width = range(self.screen.columns)
        above = ["".join(line[i].data for i in width) for line in self.screen.history.top]
        return [line.rstrip() for line in [*above, *self.screen.display]]

    @property
    def shown(self) -> list[str]:
        """The lines that aren't empty, without the status line."""
        return [line for line in self.lines if line and " tokens (" not in line]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)
