"""What a GGUF file holds, once it is read and checked; its arrays are read when asked for."""

import hashlib
import mmap
import os
import stat
from array import array
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from struct import Struct, error as StructError  # noqa: N812
from typing import Any, BinaryIO, NamedTuple, NoReturn

from llamacli.errors import InvalidModelError, reading
from llamacli.gguf.types import FILE_TYPES, TensorType

REPLACED = "it was replaced or changed while it was read; try again"
SAMPLES = 16  # places of a file that identify it, beside its size and time
STRING, ARRAY = 8, 9
TEMPLATE_KEY = "tokenizer.chat_template"
TOOL_TEMPLATE_KEY = "tokenizer.chat_template.tool_use"  # where another one is for tools
# GGUF value type -> the format of one value, as struct and array know it
FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?"} | {
    10: "Q",
    11: "q",
    12: "d",
}

U32, U64 = Struct("<I"), Struct("<Q")


@dataclass(frozen=True)
class TensorInfo:
    """shape is in GGUF's order: the length of a row first. offset counts from the file's start."""

    name: str
    shape: tuple[int, ...]
    type: TensorType
    offset: int
    nbytes: int


@dataclass(frozen=True)
class Array:
    """An array that was stepped over: its GGUF value type, its length, where its values are."""

    type: int
    length: int
    offset: int
    nbytes: int


class FileStatus(NamedTuple):
    """What tells an open file from others: where it is, its bytes, when it was last written."""

    device: int
    inode: int
    size: int
    modified: int  # nanoseconds


@dataclass(frozen=True)
class GGUFFile:
    """The checked contents of a GGUF file; metadata holds Python values, and Array for arrays.

    known are the keys whose strings, byte for byte, have passed check_vocabulary before; status
    is that of the file which was read, whatever is at path since. spans are where each key and its
    value lie.
    """

    path: Path
    version: int
    metadata: Mapping[str, Any]
    tensors: tuple[TensorInfo, ...]
    data_offset: int
    alignment: int
    size: int
    status: FileStatus
    known: frozenset[str] = frozenset()
    spans: Mapping[str, slice] = field(default_factory=dict)

    @property
    def quantization(self) -> str:
        """general.file_type by name, as Q4_K_M; 'unknown' where the file says none or a new one."""
        kind = self.metadata.get("general.file_type")
        return FILE_TYPES.get(kind, "unknown") if type(kind) is int else "unknown"

    @property
    def weights_nbytes(self) -> int:
        """Bytes that all tensors take."""
        return sum(tensor.nbytes for tensor in self.tensors)

    def raw(self, key: str) -> bytes:
        """The bytes of an array's values. Raises InvalidModelError where key has none."""
        values = self.array_at(key)
        with mapped(self.path) as (data, status):
            if status != self.status:
                self.fail(REPLACED)
            return data[values.offset : values.offset + values.nbytes]

    def strings(self, key: str) -> list[bytes]:
        """The strings of an array, not decoded. Raises InvalidModelError where key has none."""
        values = self.array_at(key)
        if values.type != STRING:
            self.fail(f"{key} is not an array of strings")
        return self.strings_in(self.raw(key), key)

    def strings_in(self, data: bytes, key: str) -> list[bytes]:
        """The same from bytes that raw gave. Raises InvalidModelError where they don't fit key."""
        result, position, unpack = [], 0, U64.unpack_from
        try:
            for _ in range(self.array_at(key).length):
                start = position + 8
                position = start + unpack(data, position)[0]
                result.append(data[start:position])
        except (StructError, OverflowError):
            position = -1
        if position != len(data):
            self.fail(f"{key} changed while it was read")
        return result

    def numbers(self, key: str) -> "array[Any]":
        """The numbers of an array. Raises InvalidModelError where key has none."""
        values = self.array_at(key)
        if values.type == STRING:
            self.fail(f"{key} is not an array of numbers")
        code = FORMATS[values.type]
        result = array("b" if code == "?" else code)
        result.frombytes(self.raw(key))
        return result

    def fail(self, what: str) -> NoReturn:
        raise InvalidModelError(what, file=self.path)

    def array_at(self, key: str) -> Array:
        """Where an array is. Raises InvalidModelError where key has none."""
        values = self.metadata.get(key)
        if not isinstance(values, Array):
            self.fail(f"{key} is missing or not an array")
        return values


@contextmanager
def mapped(path: Path) -> Iterator[tuple[mmap.mmap, FileStatus]]:
    data, status = _map(path)
    with data:
        yield data, status


def _map(path: Path) -> tuple[mmap.mmap, FileStatus]:
    with reading(path), path.open("rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise InvalidModelError("it is no regular file; models are read by mapping", file=path)
        if status.st_size == 0:
            raise InvalidModelError("it is empty, not a GGUF file", file=path)
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), file_status(file)


def file_status(file: BinaryIO) -> FileStatus:
    """An open file's. Raises OSError."""
    status = os.fstat(file.fileno())
    return FileStatus(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def file_identity(path: Path, status: FileStatus | None = None) -> list[int | str]:
    """What tells a model's file from others without reading it all: size, time, and samples.

    Raises NotFoundError, and InvalidModelError where status is given and another is at path now.
    """
    parts = hashlib.sha256()
    with reading(path), path.open("rb") as file:
        current = file_status(file)
        if current != (status or current):
            raise InvalidModelError(REPLACED, file=path)
        for i in range(SAMPLES):
            file.seek(max(0, current.size - 4096) * i // (SAMPLES - 1))
            parts.update(file.read(4096))
    return [current.size, current.modified, parts.hexdigest()]
