"""Files that hold weights, wherever they are: read by byte range, never whole."""

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from convert import system
from convert.errors import CheckpointError, unreadable
from convert.pool import Pool

READ_AHEAD = 64 << 20  # bytes that the system is asked to fetch beyond what is read now


class WeightFile(Protocol):
    """A file of known size that can be read at any offset, by several threads at once.

    identity is a text that changes when the bytes do, parallel how many reads at once are worth
    while; waits tells that a read waits so long that it should be asked for well ahead.
    """

    name: str
    size: int
    identity: str
    parallel: int
    waits: bool

    def read(self, offset: int, length: int) -> bytearray:
        """Exactly length bytes from offset. Raises CheckpointError where they aren't there, and
        SourceError where they can't be read."""
        buffer = bytearray(length)
        self.read_into(offset, memoryview(buffer))
        return buffer

    def read_into(self, offset: int, view: memoryview) -> None:
        """As many bytes as view holds, into it. Raises as read."""
        ...

    def cancel(self) -> None:
        """End reads under way, and later ones, with an error; a disk answers soon by itself."""
        return


class LocalFile(WeightFile):
    """A file on disk.

    Its bytes are copied out, not mapped: a mapping of a file that is cut while it is read kills
    the process, a short read is an error that can be told.
    """

    parallel = 2
    waits = False

    def __init__(self, path: Path) -> None:
        self.name = path.name
        try:
            self._descriptor = os.open(path, os.O_RDONLY | system.OWN)
        except OSError as error:
            raise unreadable(str(path), error) from error
        status = os.fstat(self._descriptor)
        self.size = status.st_size
        self._modified = status.st_mtime_ns
        self._asked = 0  # where what the system was last asked to fetch ends
        self.identity = f"{self.size} bytes of {self._modified}"

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)

    def read_into(self, offset: int, view: memoryview) -> None:
        length, done = len(view), 0
        self._ask_ahead(offset + length)
        while done < length:
            try:
                count = system.read_at(self._descriptor, view[done:], offset + done)
            except OSError as error:
                raise unreadable(self.name, error) from error
            if count == 0:
                raise CheckpointError("it became shorter while it was read", file=self.name)
            done += count
        if os.fstat(self._descriptor).st_mtime_ns != self._modified:
            raise CheckpointError("it was changed while it was read", file=self.name)

    def _ask_ahead(self, offset: int) -> None:
        """Have the disk work while pieces are quantized.

        The system looks for all pages that it is asked for, which takes as long as copying a part
        of them where they are in memory: none is asked for twice.
        """
        end = offset + READ_AHEAD
        start = self._asked if offset <= self._asked <= end else offset
        if end - start >= READ_AHEAD // 4:
            self._asked = end
            system.read_ahead(self._descriptor, start, end - start)


@contextmanager
def reading(files: Collection[WeightFile], *pools: Pool) -> Iterator[None]:
    """Where pools read files: they are shut down at the end, and reads soon end where it fails."""
    try:
        yield
    except BaseException:
        for file in files:
            file.cancel()
        raise
    finally:
        for pool in pools:
            pool.shutdown(wait=True, cancel_futures=True)
