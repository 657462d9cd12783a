"""Files that come in pieces and may be gone on with: a partial file, and a journal beside it.

The journal is lines of JSON: first what the file is made of, then offset, length and hash of each
piece that was written. A piece counts where the partial file still has bytes of that hash.
"""

import contextlib
import errno
import hashlib
import json
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from convert import system
from convert.errors import SourceError, TargetError
from convert.pool import Pool
from convert.target import Buffer, publish, unwritable, write_all

MAX_JOURNAL = 1 << 28  # bytes; the journal of 405B takes 12 MB


@dataclass
class Journal:
    """The pieces that a partial file has: offset → (length, hash).

    descriptor is the partial file's; renewed tells that one of another source was thrown away.
    """

    descriptor: int
    file: BinaryIO
    renewed: bool = False
    pieces: dict[int, tuple[int, str]] = field(default_factory=dict)

    def write(self, data: Buffer, offset: int) -> None:
        """Write a piece into the partial file, and note it once it is there."""
        write_all(self.descriptor, data, offset)
        self.note(offset, len(data), digest(data))

    def note(self, offset: int, length: int, hashed: str) -> None:
        """Note a piece that has been written into the partial file, by the digest of its bytes."""
        self.pieces[offset] = (length, hashed)
        self.file.write(json.dumps([offset, length, hashed]).encode() + b"\n")
        self.file.flush()

    def offsets_kept(self, ranges: Iterable[tuple[int, int]], threads: int) -> set[int]:
        """Of some (offset, length), the offsets of those whose bytes are there and whole."""
        noted = [(o, n) for o, n in ranges if self.pieces.get(o, (0, ""))[0] == n]
        with Pool(threads) as pool:
            whole = list(pool.map(self._is_whole, noted))
        return {offset for (offset, _), there in zip(noted, whole, strict=True) if there}

    def _is_whole(self, place: tuple[int, int]) -> bool:
        offset, length = place
        return digest(system.read_all(self.descriptor, length, offset)) == self.pieces[offset][1]


@contextlib.contextmanager
def resumable_file(target: Path, force: bool, made_of: Any) -> Iterator[tuple[Path, Journal]]:
    """A hidden partial file beside target that becomes target when the block ends without error.

    made_of (a JSON value) is what the file is made of: pieces of something else are thrown away.
    Where the source fails or the process ends, the pieces stay for the next call; after any other
    error they go. Raises TargetError where another process is at it, or the system refuses.
    """
    part, notes = partial_path(target), target.with_name(f".{target.name}.journal")
    descriptor, useless = -1, False
    try:
        with system.alone(target):
            descriptor = _open_locked(part, target)
        try:
            with _open_journal(notes, descriptor, made_of) as journal:
                try:
                    yield part, journal
                    system.sync(descriptor)
                except BaseException as error:
                    # Where the source failed or the user ended it; else the same would fail again.
                    ended = isinstance(error, SourceError) or not isinstance(error, Exception)
                    useless = not (journal.pieces and ended)
                    raise
        finally:
            if useless:
                descriptor = system.close_before_renaming(descriptor)
                _remove(part, notes)
        # From its renaming on, part may be another process's, and so may a journal.
        _remove(notes)
        own = os.fstat(descriptor)
        with system.alone(target):
            descriptor = system.close_before_renaming(descriptor)
            try:
                publish(part, target, force)
            finally:
                if _is_at(own, part):
                    _remove(part)
    except OSError as error:
        raise unwritable(target, error) from error
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def partial_path(target: Path) -> Path:
    """Where the pieces of target lie as long as it isn't whole."""
    return target.with_name(f".{target.name}.partial")


def space_taken(target: Path) -> int:
    """Bytes of disk that target's partial file takes already."""
    try:
        return system.disk_space(partial_path(target).lstat())
    except OSError:
        return 0


def digest(data: Buffer) -> str:
    """A short hash: of a piece, or of what a file is made of."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _remove(*paths: Path) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _open_locked(part: Path, target: Path) -> int:
    """The partial file, locked. One that was given its name between the two is tried again.

    One that is target itself is what a call left that was killed as it gave it its name.
    """
    with contextlib.suppress(FileNotFoundError):
        if _is_at(part.lstat(), target):
            part.unlink(missing_ok=True)
    while True:
        descriptor = _open_own(part)
        try:
            system.lock(descriptor)
            if _is_at(os.fstat(descriptor), part):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            fault = "it is being written by another process"
            raise TargetError(fault, file=target.name) from None
        except OSError:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _open_own(path: Path) -> int:
    """A file of a name that anyone can guess, open for reading and writing; made where it isn't.

    Raises TargetError where it is a link, or something that this user's earlier call didn't make:
    what would be written there could be another file's.
    """
    with contextlib.suppress(FileNotFoundError):  # NO_FOLLOW is nothing on Windows
        if not stat.S_ISREG(path.lstat().st_mode):
            raise _strange(path)
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR | system.NO_FOLLOW, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise _strange(path) from None
        raise
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode) and system.is_own(status) and status.st_nlink <= 1:
        return descriptor
    os.close(descriptor)
    raise _strange(path)


def _strange(path: Path) -> TargetError:
    fault = "it is in the way of a conversion's own file, and isn't one"
    return TargetError(fault, file=str(path), hint="remove it, or name another folder with -o")


def _is_at(status: os.stat_result, path: Path) -> bool:
    try:
        return os.path.samestat(status, path.lstat())
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def _open_journal(path: Path, descriptor: int, made_of: Any) -> Iterator[Journal]:
    """The journal, read as far as its lines are whole, open to be gone on with."""
    head = json.dumps(made_of, sort_keys=True).encode() + b"\n"
    with open(_open_own(path), "r+b") as file:
        noted = file.read(MAX_JOURNAL)
        pieces, length = _parse(noted, head)
        if length == 0:
            os.ftruncate(descriptor, 0)
        file.seek(length)
        file.truncate()
        if length == 0:
            file.write(head)
            file.flush()
        yield Journal(descriptor, file, bool(noted) and length == 0, pieces)


def _parse(noted: bytes, head: bytes) -> tuple[dict[int, tuple[int, str]], int]:
    """The pieces, and the bytes of the journal up to the first line that isn't whole."""
    pieces: dict[int, tuple[int, str]] = {}
    if not noted.startswith(head):
        return pieces, 0
    length = len(head)
    *lines, _ = noted[length:].split(b"\n")  # what follows the last one is no whole line
    for line in lines:
        try:
            offset, nbytes, hashed = json.loads(line)
        except (ValueError, TypeError, RecursionError):
            break
        if type(offset) is not int or type(nbytes) is not int or not isinstance(hashed, str):
            break
        pieces[offset] = (nbytes, hashed)
        length += len(line) + 1
    return pieces, length
