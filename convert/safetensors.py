"""The safetensors format, checked in one place: each way a header can be wrong has its error.

The safetensors library reads whole local files into frameworks' arrays and knows no BF16 in
NumPy; a conversion reads byte ranges of files that may not even be local.
Format: 8 bytes header length (little endian), JSON header, tensors without gaps.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from convert.errors import CheckpointError
from convert.small_files import parse_json, refuse_pointer
from convert.weights import WeightFile

MAX_HEADER = 16 << 20  # bytes; 126 layers take 0.2 MB
ITEM_SIZES = {"BF16": 2, "F16": 2, "F32": 4}


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
        raise _error(file, f"truncated: {file.size} bytes are not even a header")
    length = int.from_bytes(start[:8], "little")
    if length > MAX_HEADER:
        raise _error(file, f"the header claims an absurd {length} bytes")
    if 8 + length > file.size:
        raise _error(file, f"truncated: the header claims {length} bytes, the file has {file.size}")
    return file.read(8, length)


def parse_header(file: WeightFile, raw: bytes | bytearray) -> dict[str, StoredTensor]:
    """The tensors that a header of this file names. Raises CheckpointError."""

    def error(fault: str) -> CheckpointError:
        return _error(file, fault)

    length = len(raw)
    try:
        header = parse_json(raw)
    except CheckpointError as absurd:
        absurd.file = file.name
        raise
    except (ValueError, RecursionError):
        raise error("the header is not JSON; is this a safetensors file?") from None
    if not isinstance(header, dict):
        raise error("the header is not a JSON object")
    header.pop("__metadata__", None)
    data_size = file.size - 8 - length
    tensors, end = {}, 0
    entries = {name: _entry(name, entry, error) for name, entry in header.items()}
    for name, (dtype, shape, start, stop) in sorted(entries.items(), key=lambda e: e[1][2:]):
        if stop > data_size:
            raise error(f"truncated: {name} ends at byte {stop} of {data_size}")
        if start != end:
            fault = "overlaps the tensor before it" if start < end else "leaves a gap before it"
            raise error(f"{name} {fault} (offset {start}, expected {end})")
        if stop - start != math.prod(shape) * ITEM_SIZES[dtype]:
            raise error(f"{name} takes {stop - start} bytes, not those of {dtype} {list(shape)}")
        tensors[name] = StoredTensor(file, dtype, shape, 8 + length + start, stop - start)
        end = stop
    if end != data_size:
        raise error(f"{data_size - end} bytes follow the last tensor")
    return tensors


def _error(file: WeightFile, fault: str) -> CheckpointError:
    return CheckpointError(fault, file=file.name)


def _entry(
    name: str, entry: Any, error: Callable[[str], CheckpointError]
) -> tuple[str, tuple[int, ...], int, int]:
    if not isinstance(entry, Mapping):
        raise error(f"the entry of {name} is not an object")
    dtype: Any = entry.get("dtype")
    shape: Any = entry.get("shape")
    offsets: Any = entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in ITEM_SIZES:
        whole = "; convert the full-precision checkpoint" * str(dtype).startswith(("F8", "U", "I"))
        raise error(f"{name} has dtype {dtype!r}; BF16, F16 and F32 are read{whole}")
    for label, numbers in (("shape", shape), ("data_offsets", offsets)):
        if not isinstance(numbers, list) or not all(type(n) is int and n >= 0 for n in numbers):
            raise error(f"{name} has {label} {numbers!r}, expected a list of sizes")
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        raise error(f"{name} has data_offsets {offsets!r}, expected [start, end]")
    return dtype, tuple(shape), offsets[0], offsets[1]
