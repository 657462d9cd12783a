"""Files of importance matrices: llama.cpp's GGUF kind, and the .dat that it wrote before.

They come from strangers, so every length in them is held against the file's before it is used.
Sources: common/imatrix-loader.cpp and tools/imatrix/imatrix.cpp of llama.cpp.
"""

import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import gguf
import numpy as np
from numpy.typing import NDArray

from convert import system
from convert.errors import ImportanceError, unreadable
from convert.importance import Entry, ImportanceMatrix, checked_entry
from convert.target import whole_file

MAX_FILE = 1 << 28  # bytes; a matrix of 405B takes 76 MB
MAX_NAME = 1 << 12  # bytes of a tensor's or a key's name, or of a dataset's
MAX_KEYS = MAX_DATASETS = 1 << 10
MAX_TENSORS = 1 << 16
MAX_COUNT = 1 << 24  # chunks, or tokens of one; a number beyond that tells nothing
SUMS, COUNTS = ".in_sum2", ".counts"
DATASETS, CHUNKS, CHUNK_SIZE = "imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size"

STRING, ARRAY = 8, 9
NUMBERS = dict(zip((*range(8), 10, 11, 12), "BbHhIif?Qqd", strict=True))  # in struct's terms


def read_importance(path: Path) -> ImportanceMatrix:
    """Read and check a file of either kind. Raises ImportanceError naming file and fault, and
    SourceError where it isn't there or can't be read."""
    try:
        if path.exists() and not path.is_file():  # opening a pipe might never end
            raise ImportanceError("it is not a regular file", file=str(path))
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        raise unreadable(str(path), error) from error
    if len(data) > MAX_FILE:
        fault = f"it has more than {MAX_FILE >> 20} MiB, no importance matrix"
        raise ImportanceError(fault, file=str(path))
    reader = _Reader(path, memoryview(data))
    matrix = _read_gguf(reader) if data[:4] == b"GGUF" else _read_dat(reader)
    if not matrix.entries:
        raise ImportanceError("it has no entries", file=str(path))
    return matrix


def write_importance(path: Path, matrix: ImportanceMatrix, *, force: bool = False) -> None:
    """Write llama.cpp's GGUF kind, whole or not at all; force replaces a file that is there.

    Raises TargetError.
    """
    with whole_file(path, force) as part:
        _write(part, matrix)


def _write(path: Path, matrix: ImportanceMatrix) -> None:
    writer = _Writer(None, "")
    writer.add_type("imatrix")
    writer.add_array(DATASETS, list(matrix.datasets))
    writer.add_uint32(CHUNKS, matrix.chunks)
    writer.add_uint32(CHUNK_SIZE, matrix.chunk_size)
    for name, entry in sorted(matrix.entries.items()):
        writer.add_tensor(name + SUMS, entry.sums.reshape(1, -1))
        writer.add_tensor(name + COUNTS, np.array([[entry.count]], np.float32))
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class _Writer(gguf.GGUFWriter):
    """A matrix has no architecture."""

    def add_architecture(self) -> None: ...


class _Reader:
    """A position in a file's bytes; each step is held against their end."""

    def __init__(self, path: Path, data: memoryview) -> None:
        self.file, self.name = str(path), system.name_of(path)
        self.data, self.position = data, 0

    def fail(self, fault: str) -> NoReturn:
        raise ImportanceError(fault, file=self.file)

    @property
    def left(self) -> int:
        return len(self.data) - self.position

    def take(self, nbytes: int, what: str) -> memoryview:
        if not 0 <= nbytes <= self.left:
            self.fail(f"truncated, or no importance matrix: it ends within {what}")
        self.position += nbytes
        return self.data[self.position - nbytes : self.position]

    def unpack(self, form: str, what: str) -> Any:
        return struct.unpack("<" + form, self.take(struct.calcsize("<" + form), what))[0]

    def text(self, form: str, what: str) -> str:
        length = self.unpack(form, what)
        if length > MAX_NAME:
            self.fail(f"{what} claims {length} bytes")
        return bytes(self.take(length, what)).decode(errors="replace")

    def floats(self, count: int, what: str) -> NDArray[np.float32]:
        return np.frombuffer(self.take(4 * count, what), "<f4").copy()


def _read_dat(reader: _Reader) -> ImportanceMatrix:
    """The older kind: each entry's mean squares times its number of chunks."""
    entries: dict[str, Entry] = {}
    count = reader.unpack("i", "its start")
    if not 0 < count <= reader.left // 12:
        reader.fail("it is no importance matrix, neither GGUF nor the older kind")
    for i in range(count):
        name = reader.text("i", f"entry {i}")
        calls, values = reader.unpack("i", name), reader.unpack("i", name)
        sums = reader.floats(values, name)
        if name in entries:
            reader.fail(f"{name} is there twice")
        entries[name] = checked_entry(reader.file, name, sums, [calls])
    if reader.left < 4:
        return ImportanceMatrix(entries, file=reader.name)
    chunks = _known(reader.unpack("i", "the number of chunks"))
    dataset = reader.text("i", "the dataset's name") if reader.left >= 4 else ""
    return ImportanceMatrix(entries, (dataset,) if dataset else (), chunks, 0, reader.name)


def _read_gguf(reader: _Reader) -> ImportanceMatrix:
    reader.take(4, "its start")
    if (version := reader.unpack("I", "its version")) not in (2, 3):
        reader.fail(f"it is GGUF of version {version}; 2 and 3 are read")
    tensors, keys = reader.unpack("Q", "its start"), reader.unpack("Q", "its start")
    if tensors > MAX_TENSORS or keys > MAX_KEYS:
        reader.fail(f"it claims {tensors} tensors and {keys} keys, too many for a matrix")
    metadata: dict[str, Any] = {}
    for i in range(keys):
        key = reader.text("Q", f"key {i}")
        metadata[key] = _value(reader, reader.unpack("I", key), key)
    if metadata.get("general.type") != "imatrix":
        reader.fail("it is a GGUF file, but no importance matrix (general.type)")
    arrays = dict(_arrays(reader, tensors, metadata.get("general.alignment", 32)))
    names = {name.removesuffix(SUMS).removesuffix(COUNTS) for name in arrays}
    entries = {}
    for name in sorted(names):
        sums, counts = arrays.get(name + SUMS), arrays.get(name + COUNTS)
        if sums is None or counts is None:
            reader.fail(f"{name} has {'counts, but no sums' if sums is None else 'no counts'}")
        entries[name] = checked_entry(reader.file, name, sums, counts)
    datasets = metadata.get(DATASETS)
    chunks, size = (_known(metadata.get(key)) for key in (CHUNKS, CHUNK_SIZE))
    texts = datasets if isinstance(datasets, tuple) else ()
    return ImportanceMatrix(entries, texts, chunks, size, reader.name)


def _known(number: Any) -> int:
    """How many there are; 0 where that isn't told."""
    return number if type(number) is int and 0 <= number <= MAX_COUNT else 0


def _value(reader: _Reader, kind: int, key: str) -> Any:
    """A value of GGUF: an array of strings as a tuple, other arrays stepped over, as None."""
    if kind == STRING:
        return reader.text("Q", key)
    if kind in NUMBERS:
        return reader.unpack(NUMBERS[kind], key)
    if kind != ARRAY:
        reader.fail(f"{key} has the unknown type {kind}")
    kind, length = reader.unpack("I", key), reader.unpack("Q", key)
    if kind == STRING:
        if length > MAX_DATASETS:
            reader.fail(f"{key} claims {length} texts")
        return tuple(reader.text("Q", key) for _ in range(length))
    if kind not in NUMBERS:
        reader.fail(f"{key} is an array of the unknown type {kind}")
    reader.take(length * struct.calcsize("<" + NUMBERS[kind]), key)
    return None


def _arrays(
    reader: _Reader, count: int, alignment: Any
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """The tensors by name, flat."""
    if type(alignment) is not int or not 1 <= alignment <= 1 << 16:
        reader.fail(f"general.alignment is {alignment!r}")
    places: dict[str, tuple[int, int]] = {}
    for i in range(count):
        name = reader.text("Q", f"the name of tensor {i}")
        dimensions = reader.unpack("I", name)
        if not 1 <= dimensions <= 4:
            reader.fail(f"{name} has {dimensions} dimensions")
        values = math.prod(reader.unpack("Q", name) for _ in range(dimensions))
        kind, offset = reader.unpack("I", name), reader.unpack("Q", name)
        if kind != 0:
            reader.fail(f"{name} is not F32")
        if name in places:
            reader.fail(f"{name} is there twice")
        places[name] = values, offset
    if 4 * sum(values for values, _ in places.values()) > reader.left:
        reader.fail("truncated: its tensors claim more bytes than it has")
    start = -(-reader.position // alignment) * alignment
    for name, (values, offset) in places.items():
        reader.position = min(start + offset, len(reader.data))
        yield name, reader.floats(values, name)
