"""Saved chats: where they lie, who writes one, and the KV cache beside it.

A session NAME is the store's sessions/NAME.jsonl (see session_file), its KV cache NAME.kv. The file
`latest` holds the name of the one written to last, whatever the clock says.
"""

import difflib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from llamacli.chat import file as session_file
from llamacli.chat.conversation import Step
from llamacli.chat.file import LATEST, Session, SessionHead, SessionLog
from llamacli.engine import Unusable, saved_tokens, state_key
from llamacli.errors import LlamacliError, NotFoundError, UsageError, reading, writing
from llamacli.home import NAME, check_name, home
from llamacli.prompt import cache as prompt_cache

if TYPE_CHECKING:
    from llamacli.engine import Engine

FOLDER = "sessions"
SUFFIX = ".jsonl"
MAX_NAME = 64

Notify = Callable[[str], None]


def create(
    name: str | None, head: SessionHead, on_failure: Notify, steps: Sequence[Step] = ()
) -> SessionLog:
    """A new session's log, with the steps so far; without a name it gets the time's.

    Raises UsageError where the name is taken or odd, OutputError where the store can't be written.
    """
    candidates = _names_by_time() if name is None else iter([check_name(name, "a session's")])
    with writing(f"a session in {home(FOLDER)}", "saved"):
        home(FOLDER).mkdir(mode=0o700, parents=True, exist_ok=True)
        name, file = _new_file(candidates)
        session_file.lock(file, name)
        log = SessionLog(name, _path(name), file, on_failure, new=True)
        log.begin(head, steps)
    return log


def resume(name: str | None, on_failure: Notify) -> Session:
    """A saved session, the latest where no name is given, to go on with in this process.

    Its log is None where it can't be written, as its notices then tell. Raises NotFoundError,
    UsageError where another chat has it open, and InvalidModelError where the file is no session's.
    """
    name, path = _existing(name)
    file, unwritable = _open(path)
    log = None
    try:
        with writing(f"the session {name}"):
            read = session_file.read_session(file, name)
            if unwritable is None:
                session_file.mend(file, read.length, read.ended)
                log = SessionLog(name, path, file, on_failure, new=False)
    finally:
        if log is None:
            file.close()
    notices = read.notices if unwritable is None else (*read.notices, unwritable)
    return replace(read, log=log, notices=notices)


def look(name: str | None) -> Session:
    """A saved session, the latest where no name is given, as its file has it now: another chat may
    have it open. Raises as resume does, but for that.
    """
    name, path = _existing(name)
    with _open_to_read(path) as file, reading(path):
        return session_file.read_session(file, name)


def last_written() -> dict[str, float]:
    """The names of all sessions, the last changed first, and when, in seconds since 1970."""
    times = []
    for path in home(FOLDER).glob("[!.]*" + SUFFIX):
        with suppress(OSError):  # another chat may have removed it just now
            if NAME.fullmatch(path.stem) and path.is_file():
                times.append((path.stat().st_mtime, path.stem))
    return {name: time for time, name in sorted(times, reverse=True)}


def names() -> list[str]:
    """The names of all sessions, the last changed first."""
    return [*last_written()]


def save_cache(engine: "Engine", name: str) -> str | None:
    """Save the engine's KV cache beside a session, among others up to a limit of bytes on all.

    Says why it couldn't.
    """
    path = _kv_path(name)
    try:
        with suppress(Unusable):
            if saved_tokens(path, state_key(engine)) == engine.tokens:
                return None
        prompt_cache.store(engine, path, list(engine.tokens))
    except OSError as error:
        return f"the KV cache of {name} isn't saved: {error.strerror}"
    except LlamacliError as error:
        return f"the KV cache of {name} isn't saved: {error}"
    return None


def restore_cache(engine: "Engine", name: str, tokens: Sequence[int]) -> str | None:
    """Fill the engine's KV cache with what was saved of tokens, the session's prompt.

    Says why not, where something is saved; the conversation is then simply read again.
    """
    path = _kv_path(name)
    problem = prompt_cache.load(engine, path, tokens)
    if problem is None and path.exists() and not engine.tokens:
        problem = "its tokens are not those of this conversation's prompt"
    return problem and f"the KV cache of {name} is not used: {problem}"


def _path(name: str) -> Path:
    return home(FOLDER) / f"{name}{SUFFIX}"


def _kv_path(name: str) -> Path:
    return home(FOLDER) / f"{name}.kv"


def _names_by_time() -> Iterator[str]:
    name = f"{datetime.now():%Y-%m-%d-%H%M%S}"
    return (name if i == 1 else f"{name}-{i}" for i in count(1))


def _new_file(candidates: Iterator[str]) -> tuple[str, BinaryIO]:
    """The first name that isn't taken, and its file."""
    for name in candidates:
        with suppress(FileExistsError):
            return name, _path(name).open("xb")
    raise UsageError(f"there is a session {name} already; go on with it by --resume {name}")


def _open(path: Path) -> tuple[BinaryIO, str | None]:
    """A session's file, locked and open for writing, else for reading, and why."""
    try:
        file = path.open("r+b")
    except OSError as error:
        return _open_to_read(path), f"it can't be written ({error.strerror}): nothing is saved"
    try:
        session_file.lock(file, path.stem)
    except BaseException:
        file.close()
        raise
    return file, None


def _open_to_read(path: Path) -> BinaryIO:
    with reading(path):
        return path.open("rb")


def _existing(name: str | None) -> tuple[str, Path]:
    """The session of that name, else the latest, and its file. Raises NotFoundError, UsageError."""
    name = _latest() if name is None else check_name(name, "a session's")
    if not (path := _path(name)).is_file():
        near = difflib.get_close_matches(name, names(), n=3, cutoff=0.5)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise NotFoundError(f"there is no session {name}{hint}")
    return name, path


def _latest() -> str:
    """The one written to last, by its mark where that can be read."""
    known = names()
    if not known:
        raise NotFoundError("there is no saved chat to go on with yet")
    with (
        suppress(OSError),
        (home(FOLDER) / LATEST).open(encoding="utf-8", errors="replace") as file,
    ):
        if (marked := file.read(MAX_NAME)) in known:
            return marked
    return known[0]
