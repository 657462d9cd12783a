"""Pieces: some whole rows of one tensor, read, reordered and quantized on their own."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType
from numpy.typing import NDArray

from convert.checkpoint import Checkpoint
from convert.errors import CheckpointError
from convert.header import PlannedTensor
from convert.kernels import INFINITY, LARGEST_F16, Kernel
from convert.lora import Pair
from convert.quantization import tensor_nbytes
from convert.safetensors import ITEM_SIZES, StoredTensor
from convert.stored import as_float32, read_rows
from convert.tensors import TensorSpec, permute_heads

Type = GGMLQuantizationType

PIECE = 1 << 21  # parameters a piece: 4 MiB of BF16, 8 MiB as float32


@dataclass(frozen=True)
class Piece:
    """Some whole rows of one tensor, and where their bytes go, from the data's start.

    pairs are those of LoRA adapters that are added to it.
    """

    tensor: PlannedTensor
    stored: StoredTensor
    first_row: int
    rows: int
    offset: int
    pairs: tuple[Pair, ...] = ()

    @property
    def parameters(self) -> int:
        return self.rows * self.tensor.spec.columns

    @property
    def source_nbytes(self) -> int:
        return self.parameters * ITEM_SIZES[self.stored.dtype]

    @property
    def nbytes(self) -> int:
        """Bytes in the target."""
        return tensor_nbytes(self.tensor.type, self.parameters)


@dataclass(frozen=True)
class Quantized:
    """The bytes of a piece, and what was seen on the way: non-finite values and kernel time."""

    data: NDArray[np.uint8]
    not_finite: int
    seconds: float


def pieces_of(checkpoint: Checkpoint, tensors: tuple[PlannedTensor, ...]) -> Iterator[Piece]:
    for tensor in tensors:
        stored = checkpoint.weights.get(tensor.spec)
        if stored is None:  # rope_freqs.weight is computed, not read
            continue
        matrix = len(tensor.spec.shape) == 2
        # Heads stay whole, so that their rows can be reordered.
        unit = (tensor.spec.head_dim if matrix else None) or 1
        rows = max(unit, PIECE // tensor.spec.columns // unit * unit)
        row_bytes = tensor_nbytes(tensor.type, tensor.spec.columns)
        pairs = tuple(checkpoint.pairs.get(tensor.spec.source, ()))
        for first in range(0, tensor.spec.rows, rows):
            count = min(rows, tensor.spec.rows - first)
            yield Piece(tensor, stored, first, count, tensor.offset + first * row_bytes, pairs)


def finite_rows(
    spec: TensorSpec, stored: StoredTensor, pairs: Iterable[Pair], first: int, count: int
) -> NDArray[np.float32]:
    """Rows of a tensor in Hugging Face's order, with what adapters add, of shape (count, columns).

    Raises CheckpointError for values that aren't finite.
    """
    values = _with_pairs(read_rows(stored, first, count), pairs, first)
    if wrong := values.size - int(np.isfinite(values).sum()):
        raise not_finite_error(stored, spec, wrong)
    return values


@np.errstate(over="ignore", invalid="ignore")  # what isn't finite is told where it is counted
def _with_pairs(
    values: NDArray[np.float32], pairs: Iterable[Pair], first: int
) -> NDArray[np.float32]:
    for pair in pairs:
        values = values + pair.product(first, len(values))
    return values


def read_piece(piece: Piece, buffer: memoryview | None = None) -> memoryview:
    """Its bytes in the source, in the first ones of a buffer where one is given."""
    stored, nbytes = piece.stored, piece.source_nbytes
    view = memoryview(bytearray(nbytes)) if buffer is None else buffer[:nbytes]
    start = piece.first_row * piece.tensor.spec.columns * ITEM_SIZES[stored.dtype]
    stored.file.read_into(stored.offset + start, view)
    return view


def quantize_piece(
    piece: Piece,
    raw: memoryview,
    kernel: Kernel,
    importances: NDArray[np.float32] | None,
    out: NDArray[np.uint8],
) -> Quantized:
    """Quantize what was read; importances, float32 of shape (columns,), weigh the errors.

    The bytes are in the first ones of out, or in raw where nothing changes.
    """
    spec, kind, dtype = piece.tensor.spec, piece.tensor.type, piece.stored.dtype
    bits: NDArray[Any] = np.frombuffer(raw, np.uint32 if dtype == "F32" else np.uint16)
    bits = bits.reshape(piece.rows, spec.columns) if len(spec.shape) == 2 else bits
    if piece.pairs:
        values = as_float32(raw, dtype).reshape(bits.shape)
        bits, dtype = _with_pairs(values, piece.pairs, piece.first_row).view(np.uint32), "F32"
    if spec.head_dim is not None:
        bits = permute_heads(bits, spec.head_dim)
    if dtype == kind.name:
        return Quantized(bits.view(np.uint8), _not_finite(bits, dtype), 0.0)
    source: NDArray[Any] = bits if dtype == "BF16" else as_float32(bits.data, dtype)
    data = out[: piece.nbytes]
    started = time.perf_counter()
    largest = kernel(source.reshape(-1), data, importances)
    seconds = time.perf_counter() - started
    if largest >= INFINITY:
        return Quantized(data, _not_finite(bits, dtype), seconds)
    check_magnitude(largest, kind, piece.stored, spec)
    return Quantized(data, 0, seconds)


def check_magnitude(
    largest: int, kind: GGMLQuantizationType, stored: StoredTensor, spec: TensorSpec
) -> None:
    """Raises CheckpointError where that of a kernel's result is too large for the type."""
    if largest > LARGEST_F16 and kind not in (Type.F32, Type.BF16):
        magnitude = float(np.uint32(largest).view(np.float32))
        fault = f"{spec.source} has a value of {magnitude:.3g}, too large for {kind.name}"
        raise CheckpointError(fault, file=stored.file.name)


def not_finite_error(stored: StoredTensor, spec: TensorSpec, count: int) -> CheckpointError:
    fault = f"{spec.source} has {count} values that are NaN or infinite"
    return CheckpointError(fault, file=stored.file.name)


def _not_finite(bits: NDArray[Any], dtype: str) -> int:
    """How many values are NaN or infinite, told by their exponents."""
    infinity = {"BF16": 0x7F80, "F16": 0x7C00, "F32": 0x7F800000}[dtype]
    magnitudes = bits & bits.dtype.type(np.iinfo(bits.dtype).max >> 1)
    return int((magnitudes >= infinity).sum())
