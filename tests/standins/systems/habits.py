"""Windows' habits on Linux, where our packages meet them.

Files are opened as text unless O_BINARY is given, and text is neither UTF-8 unless that is named
nor ends its lines as elsewhere; a folder isn't opened at all. No file is removed or replaced while
this process has it open, or mapped, and no renaming replaces one. Processes know no signals: to ask
one is to kill it. There are no Unix sockets.
"""

import builtins
import contextlib
import io
import os
import signal
import stat
import subprocess  # before there is an msvcrt: it asks for one
import sys
import types
from typing import Any

from lacking import is_ours

O_BINARY = 1 << 30
GROUP = 0x200  # CREATE_NEW_PROCESS_GROUP
KILL = signal.SIGKILL  # as long as it is there
GIVEN: dict[str, dict[str, object]] = {
    "os": {"O_BINARY": O_BINARY, "O_NOINHERIT": 0},
    "signal": {"SIGBREAK": signal.SIGUSR1},
    "socket": {"SO_EXCLUSIVEADDRUSE": 2},  # Linux' SO_REUSEADDR: there it is exclusive enough
}


def console() -> types.ModuleType:
    """The module msvcrt, as far as we use it."""
    import fcntl

    def locking(descriptor: int, mode: int, count: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise PermissionError(13, "Permission denied") from error

    msvcrt = types.ModuleType("msvcrt")
    msvcrt.locking, msvcrt.LK_NBLCK, msvcrt.LK_UNLCK = locking, 2, 0
    msvcrt.kbhit, msvcrt.getwch = (lambda: False), (lambda: "")
    return msvcrt


class Busy(Exception):
    pass


def refuse_open(path: Any, folder: int | None = None) -> None:
    """What Windows says of a file that is open or mapped; this process's own are looked at."""
    with contextlib.suppress(FileNotFoundError):
        status = os.lstat(path, dir_fd=folder)
        opened = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
        for one in opened:
            with contextlib.suppress(OSError):
                if os.path.samestat(status, os.stat(one)):
                    raise Busy(13, "The file is used by another process", str(path))
        with real_open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
            if any(f" {status.st_ino} " in line for line in maps):
                raise Busy(13, "The file is used by another process", str(path))


def guarded(change: Any, *places: int) -> Any:
    def changed(*paths: Any, **more: Any) -> Any:
        if not more or is_ours(2):  # what tests do by folder descriptors, aside
            try:
                for place in places:
                    refuse_open(paths[place], more.get("dir_fd"))
            except Busy as busy:
                raise PermissionError(*busy.args) from None
        return change(*paths, **more)

    return changed


real_open, open_descriptor, rename = io.open, os.open, guarded(os.rename, 0, 1)


def opened(path: Any, flags: int, *rest: Any, **more: Any) -> int:
    if is_ours(2, ()) and path != os.devnull:  # Python's own files know what they open
        assert flags & O_BINARY or os.path.isdir(path), f"{path} is opened as text"
        if os.path.isdir(path):
            raise PermissionError(13, "Permission denied", str(path))
    return open_descriptor(path, flags & ~O_BINARY, *rest, **more)


def open_file(file: Any, mode: str = "r", *rest: Any, **more: Any) -> Any:
    if not is_ours(2):
        return real_open(file, mode, *rest, **more)
    if not (isinstance(file, int) or "opener" in more) and os.path.isdir(file):
        raise PermissionError(13, "Permission denied", str(file))
    if "b" not in mode:
        encoding = rest[1] if len(rest) > 1 else more.get("encoding")
        if encoding in (None, "locale"):
            raise EncodingWarning(f"{file} is opened as text of no named encoding")
        if mode in ("w", "a", "x") and len(rest) < 4 and more.get("newline") is None:
            more["newline"] = "\r\n"
    return real_open(file, mode, *rest, **more)


def rename_new(path: Any, new: Any, **more: Any) -> None:
    if os.path.lexists(new):
        raise FileExistsError(17, "The file is there already", str(new))
    rename(path, new, **more)


class Process(subprocess.Popen):  # type: ignore[type-arg]
    """Without signals, sessions, and what is done between fork and exec."""

    def __init__(self, *arguments: Any, creationflags: int = 0, **more: Any) -> None:
        if is_ours(2):
            assert not more.get("preexec_fn") and not more.get("pass_fds"), "Windows has no fork"
            more["start_new_session"] = False
        if creationflags & GROUP:
            more["start_new_session"] = True
        super().__init__(*arguments, **more)

    def send_signal(self, number: int) -> None:
        if is_ours(2) and number not in (signal.SIGTERM, signal.SIGINT):
            raise ValueError(f"Unsupported signal: {number}")
        super().send_signal(number)

    def kill(self) -> None:
        super().send_signal(KILL)

    def terminate(self) -> None:
        if is_ours(2):
            self.kill()
        else:
            super().terminate()


class Pipe(io.FileIO):
    """A pipe that nobody reads is an invalid argument."""

    def write(self, data: Any) -> int | None:
        try:
            return super().write(data)
        except BrokenPipeError as error:
            raise OSError(22, "Invalid argument") from error


def with_pipe(stream: Any) -> Any:
    """The stream again, where it is a pipe."""
    if stream is None or not stat.S_ISFIFO(os.fstat(stream.fileno()).st_mode):
        return stream
    buffer = io.BufferedWriter(Pipe(stream.fileno(), "wb", closefd=False))
    return io.TextIOWrapper(
        buffer, stream.encoding, stream.errors, write_through=stream.write_through
    )


def with_pairs(module: types.ModuleType) -> None:
    """socketpair goes on as it does on Linux, without asking which families there are."""
    pair, family = module.socketpair, module.AF_UNIX
    module.socketpair = lambda f=family, *rest, **more: pair(f, *rest, **more)


def with_peak(module: types.ModuleType) -> None:
    """psutil tells of Windows' peak."""
    kind = type(module.Process().memory_info())
    kind.peak_wset = property(lambda info: info.rss)


CHANGES = {"socket": with_pairs, "psutil": with_peak}


def take_on() -> None:
    os.open = opened
    os.unlink = os.remove = guarded(os.unlink, 0)
    os.replace = guarded(os.replace, 0, 1)
    os.rename = rename_new
    io.open = builtins.open = open_file
    sys.stdout = with_pipe(sys.stdout)
    subprocess.Popen = Process  # type: ignore[misc]
