"""Where batch's objects go: a file that may be gone on with, in order, and a line of progress."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from errno import EACCES, EISDIR, ENOENT
from pathlib import Path
from typing import Any, BinaryIO

from llamacli.errors import OutputError, UsageError, writing
from llamacli.terminal import Write, as_json, lively, notice, show_status, writer

REPORT = 0.25  # seconds between updates of a terminal's line; elsewhere one is written each REPORTS
REPORTS = 30.0


@dataclass
class Answers:
    """Writes objects, each whole and at once, in the order of their places unless unordered.

    A piped one is on stdout, where a reader that stalls isn't waited for after a signal.
    """

    write: Write
    piped: bool
    total: int
    unordered: bool
    quiet: bool
    waiting: dict[int, dict[str, Any]] = field(default_factory=dict)
    next_place: int = 0
    done: int = 0
    failed: int = 0
    tokens: int = 0
    started: float = field(default_factory=time.perf_counter)
    shown: float = field(default_factory=time.perf_counter)

    def put(self, place: int, value: dict[str, Any]) -> None:
        self.done += 1
        self.failed += "error" in value
        if self.unordered:
            self._write(value)
            return
        self.waiting[place] = value
        while self.next_place in self.waiting:
            self._write(self.waiting.pop(self.next_place))
            self.next_place += 1

    def _write(self, value: dict[str, Any]) -> None:
        self.write(as_json(value) + "\n")

    def progress(self, tokens: int) -> None:
        self.tokens += tokens
        now = time.perf_counter()
        live = lively(sys.stderr)
        if self.quiet or now - self.shown < (REPORT if live else REPORTS):
            return
        self.shown = now
        (show_status if live else notice)(self._line())

    def close(self) -> None:
        if not self.quiet:
            show_status("")
            notice(self._line())

    def _line(self) -> str:
        seconds = max(time.perf_counter() - self.started, 1e-9)
        return (
            f"{self.done} done, {self.total - self.done} left, {self.tokens / seconds:.1f} tokens/s"
        )


def check_output(path: Path, file: Path, resume: bool, force: bool) -> None:
    """Refuse what couldn't be written later, leaving everything as it is."""
    with writing(path):
        if path.is_symlink() and not path.exists():
            fault = f"it is a link to {path.readlink()}, which isn't there"
            raise OutputError(fault, file=path, hint="remove it")
        place, rights = (path, os.W_OK) if path.exists() else (path.parent, os.W_OK | os.X_OK)
        if place == path and not (resume or force):
            raise OutputError(
                f"{path} exists; add --resume to go on with it, or --force to replace it"
            )
        if place == path and file.exists() and path.samefile(file):
            raise UsageError(f"{path} is what is read; name another file to write")
        if not place.exists():
            raise OSError(ENOENT, os.strerror(ENOENT))
        if code := EISDIR if path.is_dir() else 0 if os.access(place, rights) else EACCES:
            raise OSError(code, os.strerror(code))


@contextmanager
def open_output(path: Path | None, whole: int, resume: bool) -> Iterator[Write]:
    """What writes to stdout, or to a file: opened at the first line, an old one until then kept.

    One that is gone on with is cut to its whole lines.
    """
    if path is None:
        yield writer(sys.stdout)
        return
    with ExitStack() as opened:
        file: BinaryIO | None = None

        def write(text: str) -> None:
            nonlocal file
            with writing(path):
                if file is None:
                    file = opened.enter_context(path.open("ab" if resume else "wb"))
                    if resume:
                        file.truncate(whole)
                try:
                    file.write(text.encode())
                    file.flush()
                except OSError:
                    with suppress(OSError):  # what could not be written before can't be now
                        file.close()
                    if path.is_file() and not path.stat().st_size:
                        path.unlink()  # it would only be in the next call's way
                    raise

        yield write
