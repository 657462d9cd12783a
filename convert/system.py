"""What differs between Linux, macOS and Windows for files that are read and written in pieces.

Nothing else in this package asks which of them it is.
"""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

WINDOWS = sys.platform == "win32"

# For os.open: bytes as they are, for this process alone; and a link or a pipe isn't opened.
OWN = getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOINHERIT", 0)
NO_FOLLOW = OWN | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


def allowed_processors() -> int:
    """The processors, with SMT those of a core each, that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def library_name(stem: str) -> str:
    """The file name of a shared library: libNAME.so, libNAME.dylib or NAME.dll."""
    return {"darwin": f"lib{stem}.dylib", "win32": f"{stem}.dll"}.get(sys.platform, f"lib{stem}.so")


def name_of(path: Path) -> str:
    """A file's or folder's own name as text, with \ufffd for what of it is no UTF-8."""
    return os.fsencode(path.name).decode(errors="replace")


def is_own(status: os.stat_result) -> bool:
    """Whether a file is this user's, as far as the system says whose files are."""
    return not hasattr(os, "geteuid") or status.st_uid == os.geteuid()


def sync_folder(folder: Path) -> None:
    """Keep a new file's name through a power cut, where the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


if sys.platform == "win32":
    import msvcrt

    # What each of these does is told below, where the other systems' are.

    LOCKED_BYTE = 1 << 40  # Windows locks bytes; one that no file has keeps none from being read

    # A descriptor has one position there, which several threads move.
    _moving = threading.Lock()

    def read_at(descriptor: int, buffer: memoryview, offset: int) -> int:
        with _moving:
            os.lseek(descriptor, offset, os.SEEK_SET)
            data = os.read(descriptor, min(len(buffer), 1 << 30))
        buffer[: len(data)] = data
        return len(data)

    def write_at(descriptor: int, data: memoryview, offset: int) -> int:
        with _moving:
            os.lseek(descriptor, offset, os.SEEK_SET)
            return os.write(descriptor, data[: 1 << 30])

    def lock(descriptor: int) -> None:
        with _moving:
            at = os.lseek(descriptor, 0, os.SEEK_CUR)
            os.lseek(descriptor, LOCKED_BYTE, os.SEEK_SET)
            try:
                msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
            except PermissionError as error:
                raise BlockingIOError(*error.args) from None
            finally:
                os.lseek(descriptor, at, os.SEEK_SET)

    def sync(descriptor: int) -> None:
        os.fsync(descriptor)

    def close_before_renaming(descriptor: int) -> int:
        if descriptor >= 0:
            os.close(descriptor)
        return -1

    @contextlib.contextmanager
    def alone(target: Path) -> Iterator[None]:
        """Wait until no other process is in here for the same target.

        A part is closed, so without its lock, when it is renamed: none may take it for abandoned.
        """
        import hashlib
        import tempfile

        name = hashlib.sha256(os.path.normcase(target.absolute()).encode()).hexdigest()[:16]
        place = Path(tempfile.gettempdir()) / f"llamacli-{name}.lock"
        descriptor = os.open(place, os.O_CREAT | os.O_RDWR | OWN, 0o666)
        try:
            while True:
                with contextlib.suppress(BlockingIOError):
                    lock(descriptor)
                    break
                time.sleep(0.01)
            yield
        finally:
            os.close(descriptor)

    def name_new(path: Path, new: Path) -> None:
        path.rename(new)

    def read_ahead(descriptor: int, offset: int, length: int) -> None:
        pass

    def write_out(descriptor: int, offset: int, length: int) -> None:
        pass

    def take_space(descriptor: int, size: int) -> None:
        os.ftruncate(descriptor, size)

    def disk_space(status: os.stat_result) -> int:
        return status.st_size

else:
    import fcntl

    WILL_NEED: int = getattr(os, "POSIX_FADV_WILLNEED", 0)
    FULL_SYNC: int | None = getattr(fcntl, "F_FULLFSYNC", None)
    WRITE_RANGE = 2  # SYNC_FILE_RANGE_WRITE: begin, and don't wait

    def read_at(descriptor: int, buffer: memoryview, offset: int) -> int:
        """Read into buffer from offset; how many bytes came, 0 at the end."""
        return os.preadv(descriptor, [buffer], offset)

    def write_at(descriptor: int, data: memoryview, offset: int) -> int:
        """Write data at offset; how many bytes were written."""
        return os.pwrite(descriptor, data, offset)

    def lock(descriptor: int) -> None:
        """An exclusive lock, until the file is closed.

        Raises BlockingIOError where another process has it, OSError where nothing can be locked.
        """
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def sync(descriptor: int) -> None:
        """Have a file's bytes on the disk before this returns; macOS's fsync leaves them to it."""
        if FULL_SYNC is not None:
            with contextlib.suppress(OSError):  # a file system that knows fsync alone
                fcntl.fcntl(descriptor, FULL_SYNC)
                return
        os.fsync(descriptor)

    def close_before_renaming(descriptor: int) -> int:
        """Close what is open, if it is, where no open file is renamed or removed: -1 then."""
        return descriptor

    @contextlib.contextmanager
    def alone(_: Path) -> Iterator[None]:
        """A part is renamed with its lock, so that none takes it for abandoned."""
        yield

    def name_new(path: Path, new: Path) -> None:
        """Give a file a name that none has yet; it may keep its old one as well.

        Raises FileExistsError where one has it.
        """
        os.link(path, new)

    def read_ahead(descriptor: int, offset: int, length: int) -> None:
        """Have the system fetch bytes that will be read, where it can be told."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(descriptor, offset, length, WILL_NEED)

    def write_out(descriptor: int, offset: int, length: int) -> None:
        """Have bytes that were written go to the disk from now on, where the system can be told."""
        if (sync_range := _sync_range()) is not None:
            sync_range(descriptor, offset, length, WRITE_RANGE)

    @cache
    def _sync_range() -> Any:
        """Linux's sync_file_range, where it is."""
        import ctypes  # some milliseconds, of which a client of the server has few

        function: Any = getattr(ctypes.CDLL(None), "sync_file_range", None)
        if function is not None:
            function.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
        return function

    def take_space(descriptor: int, size: int) -> None:
        """Have a file's disk space at once, where the file system can; OSError where it's full."""
        os.ftruncate(descriptor, size)
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(descriptor, 0, size)

    def disk_space(status: os.stat_result) -> int:
        """Bytes of the disk that a file takes."""
        return status.st_blocks * 512


def read_all(descriptor: int, length: int, offset: int) -> bytes:
    """length bytes from offset, or those that there are."""
    buffer = bytearray(length)
    view, done = memoryview(buffer), 0
    while done < length and (count := read_at(descriptor, view[done:], offset + done)):
        done += count
    return bytes(view[:done])
