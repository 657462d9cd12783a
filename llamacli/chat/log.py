"""Writing a session: locked, appended to, on the disk after each line."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from convert import lock as lock_file, sync, sync_folder
from llamacli.chat.conversation import Step
from llamacli.chat.file import SessionHead, write_line
from llamacli.errors import UsageError
from llamacli.home import replace_file
from llamacli.system import WINDOWS

LATEST = "latest"
MAX_NAME = 64


class SessionLog:
    """A session's open file. Where the disk refuses, on_failure is told so, once, and nothing more
    is saved: what is there stays a whole conversation."""

    def __init__(
        self,
        name: str,
        path: Path,
        file: BinaryIO,
        on_failure: Callable[[str], None],
        *,
        new: bool,
    ) -> None:
        """file is locked and at its end; a new one goes at the end if nothing was asked."""
        self.name = name
        self._path = path
        self._file: BinaryIO | None = file
        self._on_failure = on_failure
        self._empty = new
        self._is_latest = False

    def record(self, step: Step) -> None:
        """Append a step of the conversation."""
        self._append(write_line(step))
        if self._empty and step.get("role") == "user":
            self._empty = False
            sync_folder(self._path.parent)
        if not self._empty and not self._is_latest:
            self._is_latest = True
            with suppress(OSError):
                replace_file(self._path.parent / LATEST, self.name.encode())

    def record_head(self, head: SessionHead) -> None:
        """Append what has changed of model and settings."""
        self._append(write_line(head.line()))

    def close(self) -> None:
        """Let others have the session; one in which nothing was asked is removed."""
        if self._file is None:
            return
        if self._empty and not WINDOWS:  # while the lock keeps others from it
            self._remove()
        self._release()
        if self._empty and WINDOWS:  # where no open file can be removed
            self._remove()

    def _append(self, line: bytes) -> None:
        if self._file is None:
            return
        try:
            self._file.write(line)
            self._file.flush()
            sync(self._file.fileno())
        except OSError as error:
            self._release()
            self._on_failure(
                f"the session {self.name} can't be written ({error.strerror}); what follows "
                "isn't saved"
            )

    def _remove(self) -> None:
        with suppress(OSError):
            self._path.unlink(missing_ok=True)

    def _release(self) -> None:
        if self._file is not None:
            with suppress(OSError):  # what could not be written before can't be now
                self._file.close()
        self._file = None


def lock(file: BinaryIO, name: str) -> None:
    """Lock a session's file until it is closed; raises UsageError where another chat has it."""
    try:
        lock_file(file.fileno())
    except BlockingIOError:
        raise UsageError(
            f"another chat has the session {name} open; leave that one, or begin a new one"
        ) from None
    except OSError:  # a file system without locks
        return


def mend(file: BinaryIO, length: int, ended: bool) -> None:
    """Make a session's file one to append to: cut it to length, and end its last line."""
    file.truncate(length)
    file.seek(length)
    if not ended:
        file.write(b"\n")
    file.flush()


def latest(folder: Path) -> str | None:
    """The name of the session that was written to last, unchecked; None where that isn't known."""
    try:
        with (folder / LATEST).open(encoding="utf-8", errors="replace") as file:
            return file.read(MAX_NAME)
    except OSError:
        return None
