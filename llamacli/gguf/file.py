"""GGUF files, read with nothing in them taken on trust: what passes here may go to C code.

The layout is that of the GGUF specification, versions 2 and 3: a header, key-value pairs, one
record a tensor, then the tensors' data. Long arrays are stepped over and read only when asked for.
"""

import hashlib
import math
import mmap
from dataclasses import replace
from pathlib import Path
from struct import Struct, error as StructError  # noqa: N812
from typing import Any, NoReturn

from llamacli.errors import InvalidModelError
from llamacli.gguf import contents

MAX_TEXT = 64 << 20  # bytes of keys and of values that are texts
DEFAULT_ALIGNMENT = 32
MAX_ALIGNMENT = 1 << 16
MAX_NAME = 63  # bytes; ggml keeps names in 64 with the final zero
MAX_DIMENSIONS = 4
MAX_KEY = 65535  # bytes, by the specification
# Far above what any model has; together they keep what is made of a file, here and in llama.cpp,
# which reads all of it, within 1 GiB.
MAX_KEYS = MAX_TENSORS = 1 << 16
MAX_STRINGS = 1 << 22  # in arrays
MAX_ARRAYS = 256 << 20  # bytes
# llama.cpp writes each array out for its log, though nobody reads that: characters of all of it.
MAX_WRITTEN = 128 << 20
WRITTEN = dict(zip(contents.FORMATS, (5, 6, 7, 8, 12, 13, 49, 7, 22, 22, 319), strict=True))
LEAST_PAIR, LEAST_RECORD = 14, 33  # bytes in the file
# Vocabularies that have passed check_vocabulary: their bytes and SHA-256, by key and length.
# Hashing Llama 3's takes 3 ms, stepping over 400,000 strings and checking the tokens 60.
TOKENS, MERGES = "tokenizer.ggml.tokens", "tokenizer.ggml.merges"
KNOWN = {
    (TOKENS, 128_256): {  # Llama 3.1 to 3.3, Llama 3
        2_099_452: "b61aa1815dcb1b349af90dfb3ad88078522ea774f3d0c9d4aa7244ebb180f9df",
        2_099_493: "23983359e84a0ec8ec7cee8224afcc069c587b317e47ade6010e2ca03cbc1d88",
    },
    (MERGES, 280_147): {
        5_204_765: "44546c8009a5993ff850e2288dbd2b0213643cd224445cd9c8c6bf452112d669"
    },
    (TOKENS, 49_152): {  # SmolLM2
        762_386: "e3f79317b457a91937391f6e0ee99d97ba2a3adae02bc26db8f59710ddb27ffe"
    },
    (MERGES, 48_900): {808_677: "f21dff0382d448ea564fe1869e6158795a0db82c4b0771f6fb3d5db9818f0166"},
}


class HeaderError(InvalidModelError):
    """A fault of a header; position is how far it had been read, in bytes."""

    def __init__(self, fault: str, path: Path, position: int) -> None:
        super().__init__(fault, file=path)
        self.position = position


def read_gguf(path: Path) -> contents.GGUFFile:
    """Read and check a GGUF file's header and records; tensor data isn't touched.

    Known vocabularies are recognized, not read string by string. Raises NotFoundError where there
    is no file, InvalidModelError naming file and fault, and DoesNotFitError where the process may
    not map it.
    """
    with contents.mapped(path) as (data, status):
        return _Reader(path, data, status).read()


def read_beginning(data: bytes, size: int, name: str) -> contents.GGUFFile:
    """The same of a file of that size that begins so, which isn't there yet; name is for errors.

    Raises HeaderError, whose position is beyond data where that ends within the header.
    """
    if not size:
        raise HeaderError("it is empty, not a GGUF file", Path(name), 0)
    file = _Reader(Path(name), data, contents.FileStatus(0, 0, size, 0)).read()
    return replace(file, begun=data[: file.data_offset])


class _Reader:
    """Reads what a file has in order; each step is held against its end, and raises HeaderError."""

    def __init__(self, path: Path, data: mmap.mmap | bytes, status: contents.FileStatus) -> None:
        self.path, self.data, self.status = path, data, status
        self.size, self.position = status.size, 0
        self.recognized = set[str]()
        self.text = self.strings = self.arrays = 0  # how much of what is capped has been read

    def read(self) -> contents.GGUFFile:
        version = self.header()
        tensors, pairs = (
            self.unpack(contents.U64, "tensor count"),
            self.unpack(contents.U64, "key count"),
        )
        self.check_count(tensors, MAX_TENSORS, LEAST_RECORD, "tensors")
        self.check_count(pairs, MAX_KEYS, LEAST_PAIR, "keys")
        metadata: dict[str, Any] = {}
        spans: dict[str, slice] = {}
        for i in range(pairs):
            start = self.position
            key = self.string(f"key {i}", MAX_KEY)
            if not key or "\0" in key or key in metadata:
                self.fail(f"key {i}, {key!r}, is empty, twice there or has a zero in it")
            metadata[key] = self.value(self.unpack(contents.U32, key), key)
            spans[key] = slice(start, self.position)
        alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        known = {1 << i for i in range(3, MAX_ALIGNMENT.bit_length())}
        if type(alignment) is not int or alignment not in known:
            self.fail(f"general.alignment is {alignment!r}, not a power of two from 8 to 65536")
        records = [self.tensor_record(i) for i in range(tensors)]
        data_offset = padded(self.position, alignment)
        self.check_there(data_offset)
        return contents.GGUFFile(
            path=self.path,
            version=version,
            metadata=metadata,
            tensors=self.placed(records, data_offset, alignment),
            data_offset=data_offset,
            alignment=alignment,
            size=self.size,
            status=self.status,
            known=frozenset(self.recognized),
            spans=spans,
        )

    def header(self) -> int:
        magic = self.data[:4]
        if magic != b"GGUF":
            self.fail(f"it is not a GGUF file: it starts with {magic!r}")
        self.position = 4
        version: int = self.unpack(contents.U32, "version")
        if version not in (2, 3):
            kind = "big-endian" if version and not version & 0xFFFF else f"version {version}"
            self.fail(f"it is {kind} GGUF; version 2 and 3, little-endian, are read")
        return version

    def value(self, kind: int, key: str) -> Any:
        if kind == contents.STRING:
            return self.string(key)
        if kind == contents.ARRAY:
            return self.array(key)
        if kind not in contents.FORMATS:
            self.fail(f"{key} has the unknown value type {kind}")
        return self.unpack(Struct("<" + contents.FORMATS[kind]), key)

    def array(self, key: str) -> contents.Array:
        kind, length = self.unpack(contents.U32, key), self.unpack(contents.U64, key)
        start = self.position
        if kind == contents.STRING:
            self.strings += length
            self.check_count(length, MAX_STRINGS, 8, f"strings in {key}")
            if self.strings > MAX_STRINGS:
                self.fail(f"{key} is too long: at most {MAX_STRINGS} strings can be read")
            if not self.recognize(key, length):
                self.skip_strings(length, key)
        elif kind in contents.FORMATS:
            self.take(length * Struct("<" + contents.FORMATS[kind]).size, key)
        else:
            self.fail(f"{key} is an array of the unknown or nested type {kind}")
        self.arrays += self.position - start
        if self.arrays > MAX_ARRAYS:
            self.fail(f"{key} is too long: at most {MAX_ARRAYS} bytes of arrays can be read")
        written = length * WRITTEN[kind] if kind in WRITTEN else 2 * (self.position - start)
        if written > MAX_WRITTEN:
            self.fail(f"{key} is too long: llama.cpp would write {written} characters of it")
        return contents.Array(kind, length, start, self.position - start)

    def recognize(self, key: str, length: int) -> bool:
        """Step over that many strings at once where they are those of a known vocabulary."""
        for nbytes, sha256 in KNOWN.get((key, length), {}).items():
            end = self.position + nbytes
            if end <= self.size:
                with memoryview(self.data) as whole, whole[self.position : end] as part:
                    if hashlib.sha256(part).hexdigest() == sha256:
                        self.position = end
                        self.recognized.add(key)
                        return True
        return False

    def tensor_record(self, index: int) -> tuple[str, tuple[int, ...], contents.TensorType, int]:
        name = self.string(f"the name of tensor {index}", MAX_NAME)
        if not name or "\0" in name:
            self.fail(f"tensor {index} has the name {name!r}")
        dimensions = self.unpack(contents.U32, name)
        if not 1 <= dimensions <= MAX_DIMENSIONS:
            self.fail(f"{name} has {dimensions} dimensions")
        shape = tuple(self.unpack(contents.U64, name) for _ in range(dimensions))
        kind, offset = self.unpack(contents.U32, name), self.unpack(contents.U64, name)
        if kind not in contents.TENSOR_TYPES:
            self.fail(f"{name} has the unknown type {kind}")
        return name, shape, contents.TENSOR_TYPES[kind], offset

    def placed(
        self,
        records: list[tuple[str, tuple[int, ...], contents.TensorType, int]],
        data_offset: int,
        alignment: int,
    ) -> tuple[contents.TensorInfo, ...]:
        """The tensors, which must follow one another without gaps, as llama.cpp demands."""
        tensors: dict[str, contents.TensorInfo] = {}
        expected = 0
        for name, shape, kind, offset in records:
            if name in tensors:
                self.fail(f"tensor {name} is there twice")
            values = math.prod(shape)
            if values < 1 or shape[0] % kind.block:
                self.fail(f"{name}'s shape {list(shape)} isn't whole {kind.name} blocks")
            nbytes = values // kind.block * kind.nbytes
            if offset != expected:
                self.fail(f"{name}'s data is at {offset}, expected {expected}")
            if nbytes > self.size - data_offset - offset:
                self.fail(
                    f"{name}'s data, {nbytes} bytes at {data_offset + offset}, ends beyond the "
                    f"file's {self.size}; it was cut off, fetch or convert it again"
                )
            tensors[name] = contents.TensorInfo(name, shape, kind, data_offset + offset, nbytes)
            expected = offset + padded(nbytes, alignment)
        return tuple(tensors.values())

    def check_count(self, count: int, most: int, nbytes: int, what: str) -> None:
        """Refuse more than that of what takes nbytes or more each in the rest of the file."""
        if count > (self.size - self.position) // nbytes:
            self.fail(f"it claims {count} {what}, more than the file can hold")
        if count > most:
            self.fail(f"it has {count} {what}; {most} can be read")

    def fail(self, what: str) -> NoReturn:
        raise HeaderError(what, self.path, self.position)

    def take(self, nbytes: int, what: str) -> int:
        """Step over nbytes and give where they start."""
        start = self.position
        if nbytes > self.size - start:
            self.position = self.size
            self.fail(f"the file ends within {what} ({nbytes} bytes at {start} of {self.size})")
        self.check_there(start + nbytes)
        self.position = start + nbytes
        return start

    def check_there(self, end: int) -> None:
        """Refuse what lies before end, and is of the part of a file that isn't there yet."""
        if len(self.data) < min(end, self.size):
            self.position = end
            self.fail(f"its header takes more than {len(self.data)} bytes")

    def unpack(self, form: Struct, what: str) -> Any:
        return form.unpack_from(self.data, self.take(form.size, what))[0]

    def string(self, what: str, limit: int | None = None) -> str:
        length = self.unpack(contents.U64, what)
        if limit is not None and length > limit:
            self.fail(f"{what} is {length} bytes long; {limit} are allowed")
        start = self.take(length, what)
        self.text += length
        if self.text > MAX_TEXT:
            self.fail(f"{what} is too long: at most {MAX_TEXT} bytes of text can be read")
        try:
            return str(self.data[start : self.position], "utf-8")
        except UnicodeDecodeError as error:
            self.fail(f"{what} is not UTF-8 (byte {start + error.start})")

    def skip_strings(self, count: int, key: str) -> None:
        unpack, data, position = contents.U64.unpack_from, self.data, self.position
        try:
            for _ in range(count):
                position += unpack(data, position)[0] + 8
        except (StructError, OverflowError, IndexError):
            position = self.size + 1
        self.position = position
        if position > self.size:
            self.fail(f"the file ends within {key}")
        self.check_there(position)


def padded(value: int, unit: int = DEFAULT_ALIGNMENT) -> int:
    """The next multiple of unit; value itself where it is one."""
    return -(-value // unit) * unit
