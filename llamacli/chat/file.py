"""A session's file: JSON lines, of which a damaged one costs no other.

A line is a head, {"session": 1, "model", "quantization", "settings"}, the first one and again
whenever one of these changes, or a step of the conversation (see conversation). Lines are only
appended, on the disk one after the other, so that a power cut loses at most the message under way;
whoever appends has the file locked.
"""

import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from convert import lock as lock_file, sync, sync_folder
from llamacli.chat.conversation import Conversation, Step, read_step, replay
from llamacli.engine import SamplingSettings, is_sound
from llamacli.errors import InvalidModelError, UsageError
from llamacli.home import replace_file
from llamacli.prompt import read_value
from llamacli.system import WINDOWS

VERSION = 1
MAX_LINE = 16 << 20  # bytes; no context takes a message that long
MAX_FILE = 64 << 20
MAX_LINES = 100_000  # a turn takes two or three
MAX_TEXT = 4096  # characters of a model's name or a stop text
MAX_STOPS = 64
# All but what requests to a server alone have.
SAMPLING = tuple(one.name for one in fields(SamplingSettings) if one.name != "logit_bias")
LATEST = "latest"


@dataclass(frozen=True)
class SessionHead:
    """What a session is held with. model is what -m takes; empty where it isn't known, or has
    characters that can't be printed.

    settings has SamplingSettings' names, max_tokens, context, stop (a list of texts) and adapters,
    as --adapter takes them.
    """

    model: str = ""
    quantization: str = ""
    settings: dict[str, Any] = field(default_factory=dict)

    def line(self) -> dict[str, Any]:
        return {"session": VERSION, **vars(self)}


@dataclass(frozen=True)
class Session:
    """What a session's file says, and what is wrong with it.

    Behind its first length bytes lies a line that was cut; ended is False where the line before
    lacks its newline. log is there where it is gone on with and can be written.
    """

    name: str
    head: SessionHead
    conversation: Conversation
    notices: tuple[str, ...]
    length: int
    ended: bool
    log: "SessionLog | None" = None


def write_line(value: dict[str, Any]) -> bytes:
    """A head or step as the file has it; half a surrogate pair, which UTF-8 hasn't, is a `?`."""
    return json.dumps(value, ensure_ascii=False).encode(errors="replace") + b"\n"


def read_session(file: BinaryIO, name: str) -> Session:
    """Read what can be read of a session's file; name is for errors.

    Raises InvalidModelError where the file is no session's, of a newer version or absurdly long.
    """
    too_long = InvalidModelError(
        f"the session {name} has more than {MAX_FILE} bytes or {MAX_LINES} lines; begin a new one"
    )
    if os.fstat(file.fileno()).st_size > MAX_FILE:
        raise too_long
    head: SessionHead | None = None
    steps: list[Step] = []
    skipped: list[int] = []
    length, ended, notices = 0, True, []
    for number, line in enumerate(iter(partial(file.readline, MAX_LINE), b""), 1):
        if number > MAX_LINES:
            raise too_long
        value = _value(line)
        if isinstance(value, dict) and type(value.get("session")) is int:
            head = _head(value, name)
        elif (step := read_step(value)) is not None:
            steps.append(step)
        elif not line.endswith(b"\n") and len(line) < MAX_LINE:
            notices.append("its last line was cut off and is dropped")
            break
        elif line.strip():
            skipped.append(number)
        length, ended = length + len(line), line.endswith(b"\n")
    if skipped and head is None and not steps:
        raise InvalidModelError(f"{name} is not a session's file; move it away")
    if skipped:
        more = f" and {len(skipped) - 1} more are" if skipped[1:] else " is"
        notices.append(f"its line {skipped[0]}{more} damaged and skipped")
    if head is None:
        notices.append("its first line is damaged: its model and settings aren't known")
    return Session(name, head or SessionHead(), replay(steps), tuple(notices), length, ended)


def _value(line: bytes) -> Any:
    """The line's JSON; None where it is none, or text in it can't be UTF-8."""
    try:
        value = read_value(line.decode())
        if b"\\u" in line:  # perhaps half a surrogate pair
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return None
    return value


def _head(value: dict[str, Any], name: str) -> SessionHead:
    if value["session"] > VERSION:
        raise InvalidModelError(f"the session {name} was written by a newer llamacli")
    names = {key: value.get(key, "") for key in ("model", "quantization")}
    names = {key: text for key, text in names.items() if _is_text(text) and text.isprintable()}
    return SessionHead(**names, settings=sound_settings(value.get("settings")))


def sound_settings(given: Any) -> dict[str, Any]:
    """The settings among given that are known and have a value they can take."""
    settings = given if isinstance(given, dict) else {}
    return {name: value for name, value in settings.items() if _is_sound(name, value)}


def _is_sound(name: str, value: Any) -> bool:
    if name in ("max_tokens", "context"):
        return type(value) is int and 1 <= value < 1 << 31
    if name in ("stop", "adapters"):
        return isinstance(value, list) and len(value) <= MAX_STOPS and all(map(_is_text, value))
    return name in SAMPLING and is_sound(name, value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_TEXT


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

    def begin(self, head: SessionHead, steps: Sequence[Step]) -> None:
        """Write what a new session begins with. Raises OSError, and its file is gone then."""
        try:
            self._write(head.line(), *steps)
        except BaseException:
            self._empty = True
            self.close()
            raise

    def record(self, step: Step) -> None:
        """Append a step of the conversation, or the line of a head: what has changed of that."""
        if self._file is None:
            return
        try:
            self._write(step)
        except OSError as error:
            self._release()
            self._on_failure(
                f"the session {self.name} can't be written ({error.strerror}); what follows "
                "isn't saved"
            )

    def close(self) -> None:
        """Let others have the session; one in which nothing was asked is removed."""
        if self._file is None:
            return
        if self._empty and not WINDOWS:  # while the lock keeps others from it
            self._remove()
        self._release()
        if self._empty and WINDOWS:  # where no open file can be removed
            self._remove()

    def _write(self, *lines: dict[str, Any]) -> None:
        assert self._file is not None
        self._file.write(b"".join(map(write_line, lines)))
        self._file.flush()
        sync(self._file.fileno())
        if self._empty and any(line.get("role") == "user" for line in lines):
            self._empty = False
            sync_folder(self._path.parent)
        if not self._empty and not self._is_latest:
            self._is_latest = True
            with suppress(OSError):
                replace_file(self._path.parent / LATEST, self.name.encode())

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
