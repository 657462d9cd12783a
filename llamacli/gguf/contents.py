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

REPLACED = "it was replaced or changed while it was read; try again"
SAMPLES = 16  # places of a file that identify it, beside its size and time
STRING, ARRAY = 8, 9
TEMPLATE_KEY = "tokenizer.chat_template"
TOOL_TEMPLATE_KEY = "tokenizer.chat_template.tool_use"  # where another one is for tools
# GGUF value type -> the format of one value, as struct and array know it
FORMATS = dict(zip((*range(8), 10, 11, 12), "BbHhIif?Qqd", strict=True))
U32, U64 = Struct("<I"), Struct("<Q")


class TensorType(NamedTuple):
    name: str
    block: int  # values a block
    nbytes: int  # bytes a block


# ggml's types by number. Kept here because importing gguf costs every start of the program 0.1 s.
# fmt: off
TENSOR_TYPES = {
    0: TensorType("F32", 1, 4), 1: TensorType("F16", 1, 2), 30: TensorType("BF16", 1, 2),
    2: TensorType("Q4_0", 32, 18), 3: TensorType("Q4_1", 32, 20), 6: TensorType("Q5_0", 32, 22),
    7: TensorType("Q5_1", 32, 24), 8: TensorType("Q8_0", 32, 34), 39: TensorType("MXFP4", 32, 17),
    10: TensorType("Q2_K", 256, 84), 11: TensorType("Q3_K", 256, 110),
    12: TensorType("Q4_K", 256, 144), 13: TensorType("Q5_K", 256, 176),
    14: TensorType("Q6_K", 256, 210), 16: TensorType("IQ2_XXS", 256, 66),
    17: TensorType("IQ2_XS", 256, 74), 18: TensorType("IQ3_XXS", 256, 98),
    19: TensorType("IQ1_S", 256, 50), 20: TensorType("IQ4_NL", 32, 18),
    21: TensorType("IQ3_S", 256, 110), 22: TensorType("IQ2_S", 256, 82),
    23: TensorType("IQ4_XS", 256, 136), 29: TensorType("IQ1_M", 256, 56),
    34: TensorType("TQ1_0", 256, 54), 35: TensorType("TQ2_0", 256, 66),
}
# llama.cpp's llama_ftype by number: what general.file_type says of a whole file.
FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K",
    11: "Q3_K_S", 12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17:
    "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS", 21: "Q2_K_S", 22: "IQ3_XS", 23:
    "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S", 29:
    "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38:
    "MXFP4_MOE", 39: "NVFP4", 40: "Q1_0", 41: "Q2_0",
}
# fmt: on


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

    known are the keys whose strings are a known vocabulary's; status is that of the file which was
    read, whatever is at path since. spans are where each key and its value lie. begun has the first
    bytes of a file that isn't at path yet.
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
    begun: bytes = field(default=b"", repr=False)

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
        if self.begun:
            return self.begun[values.offset : values.offset + values.nbytes]
        with mapped(self.path) as (data, status):
            if status != self.status:
                self.fail(REPLACED)
            return data[values.offset : values.offset + values.nbytes]

    def strings(self, key: str) -> list[bytes]:
        """The strings of an array, not decoded. Raises InvalidModelError where key has none."""
        values = self.array_at(key)
        if values.type != STRING:
            self.fail(f"{key} is not an array of strings")
        data, result, position, unpack = self.raw(key), list[bytes](), 0, U64.unpack_from
        try:
            for _ in range(values.length):
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
    """A file's bytes, and its status. Raises NotFoundError and InvalidModelError."""
    with reading(path), path.open("rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise InvalidModelError("it is no regular file; models are read by mapping", file=path)
        status = file_status(file)
        if not status.size:
            raise InvalidModelError("it is empty, not a GGUF file", file=path)
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    with data:
        yield data, status


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
