"""Files of weights, here or elsewhere, and the safetensors format, checked in one place: each way a
header can be wrong has its error.

The safetensors library reads whole local files into frameworks' arrays and knows no BF16 in
NumPy; a conversion reads byte ranges of files that may not even be local.
Format: 8 bytes header length (little endian), JSON header, tensors without gaps.
"""

import math
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from convert import system
from convert.errors import CheckpointError, unreadable
from convert.pool import Pool
from convert.small_files import parse_json, refuse_pointer

READ_AHEAD = 64 << 20  # bytes that the system is asked to fetch beyond what is read now
MAX_HEADER = 16 << 20  # bytes; 126 layers take 0.2 MB
MAX_DIMENSIONS = 8
MAX_SIZE = 1 << 62  # of a dimension, and of offsets; products of many longer ones take for ever
ITEM_SIZES = {"BF16": 2, "F16": 2, "F32": 4}


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


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies: dtype is BF16, F16 or F32; offset counts from the file's start."""

    file: WeightFile
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


def read_header(file: WeightFile) -> dict[str, StoredTensor]:
    """The tensors of one safetensors file. Raises CheckpointError naming file and fault."""
    return parse_header(file, fetch_header(file))


def fetch_header(file: WeightFile) -> bytes | bytearray:
    """The header's JSON text. Raises CheckpointError where there is none of a sane size."""
    start = file.read(0, min(file.size, 64))
    refuse_pointer(start, file.name)
    if file.size < 8:
        fault = f"truncated: {file.size} bytes are not even a header"
        raise CheckpointError(fault, file=file.name)
    length = int.from_bytes(start[:8], "little")
    if length > MAX_HEADER:
        raise CheckpointError(f"the header claims an absurd {length} bytes", file=file.name)
    if 8 + length > file.size:
        fault = f"truncated: the header claims {length} bytes, the file has {file.size}"
        raise CheckpointError(fault, file=file.name)
    return file.read(8, length)


def parse_header(file: WeightFile, raw: bytes | bytearray) -> dict[str, StoredTensor]:
    """The tensors that a header of this file names. Raises CheckpointError naming it."""
    try:
        return _tensors(file, raw)
    except CheckpointError as error:
        error.file = file.name
        raise


def _tensors(file: WeightFile, raw: bytes | bytearray) -> dict[str, StoredTensor]:
    try:
        header = parse_json(raw)
    except (ValueError, RecursionError):
        raise CheckpointError("the header is not JSON; is this a safetensors file?") from None
    if not isinstance(header, dict):
        raise CheckpointError("the header is not a JSON object")
    header.pop("__metadata__", None)
    begin = 8 + len(raw)
    data_size = file.size - begin
    tensors, end = {}, 0
    entries = {name: _entry(name, entry) for name, entry in header.items()}
    for name, (dtype, shape, start, stop) in sorted(entries.items(), key=lambda e: e[1][2:]):
        if stop > data_size:
            raise CheckpointError(f"truncated: {name} ends at byte {stop} of {data_size}")
        if start != end:
            fault = "overlaps the tensor before it" if start < end else "leaves a gap before it"
            raise CheckpointError(f"{name} {fault} (offset {start}, expected {end})")
        if stop - start != math.prod(shape) * ITEM_SIZES[dtype]:
            fault = f"{name} takes {stop - start} bytes, not those of {dtype} {list(shape)}"
            raise CheckpointError(fault)
        tensors[name] = StoredTensor(file, dtype, shape, begin + start, stop - start)
        end = stop
    if end != data_size:
        raise CheckpointError(f"{data_size - end} bytes follow the last tensor")
    return tensors


def _entry(name: str, entry: Any) -> tuple[str, tuple[int, ...], int, int]:
    if not isinstance(entry, Mapping):
        raise CheckpointError(f"the entry of {name} is not an object")
    dtype: Any = entry.get("dtype")
    shape: Any = entry.get("shape")
    offsets: Any = entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in ITEM_SIZES:
        whole = "; convert the full-precision checkpoint" * str(dtype).startswith(("F8", "U", "I"))
        raise CheckpointError(f"{name} has dtype {dtype!r}; BF16, F16 and F32 are read{whole}")
    for label, numbers in (("shape", shape), ("data_offsets", offsets)):
        sizes = isinstance(numbers, list) and len(numbers) <= MAX_DIMENSIONS
        if not sizes or not all(type(n) is int and 0 <= n <= MAX_SIZE for n in numbers):
            raise CheckpointError(f"{name} has {label} {numbers!r}, expected a list of sizes")
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        raise CheckpointError(f"{name} has data_offsets {offsets!r}, expected [start, end]")
    return dtype, tuple(shape), offsets[0], offsets[1]
