"""What each type costs each matrix: its error, measured on rows that are quantized and back.

Of a large matrix a part of the rows is read, runs of them spread evenly over it: always the same
ones, so that the same checkpoint gives the same numbers.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from gguf import GGMLQuantizationType
from numpy.typing import NDArray

from convert.header import PlannedTensor
from convert.kernels import Kernel, dequantize
from convert.lora import Pair
from convert.pieces import PIECE, Piece, not_finite_error, piece_values, quantize_piece, read_piece
from convert.safetensors import ITEM_SIZES, StoredTensor
from convert.tensors import TensorSpec

SAMPLED = 1 << 18  # values of a matrix that are read; twice as many are read whole
CALM = 30
RUNS = 8  # of neighbouring rows, each read at once


@dataclass(frozen=True)
class Measured:
    """A matrix: sums over all its values, as the part that was read has them.

    energy is the sum of squares, errors of the squared errors that each type makes, weighed by the
    mean square of the input that a column meets: so they are the mean energy of the matrix' output
    and of its error, of uncorrelated inputs. calm is the energy where no column's input has more
    than CALM times the median's; inputs is the columns' mean.
    """

    spec: TensorSpec
    inputs: float
    energy: float
    calm: float
    errors: Mapping[GGMLQuantizationType, float]

    def error(self, kind: GGMLQuantizationType) -> float:
        """That of a type; 0 where it wasn't measured, as the matrix has no other."""
        return self.errors.get(kind, 0.0)

    def relative_error(self, kind: GGMLQuantizationType) -> float:
        return self.error(kind) / self.energy if self.energy else 0.0


def measure(
    spec: TensorSpec,
    stored: StoredTensor,
    kernels: Mapping[GGMLQuantizationType, Kernel],
    inputs: NDArray[np.float32],
    importances: Mapping[GGMLQuantizationType, NDArray[np.float32]] | None = None,
    pairs: tuple[Pair, ...] = (),
) -> Measured:
    """The errors of those types for which there are kernels.

    inputs are the mean squares of the columns' inputs, importances what types' kernels weigh errors
    by; both float32 of shape (columns,). pairs are those of adapters that are added. Raises
    CheckpointError for values that aren't finite, or too large.
    """
    weights = inputs.astype(np.float64)
    capped = np.minimum(weights, CALM * np.median(weights))
    squares, errors, rows = np.zeros(spec.columns), dict.fromkeys(kernels, 0.0), 0
    for piece in _sampled(replace(spec, head_dim=None), stored, pairs):
        raw = read_piece(piece)
        values = piece_values(piece, raw)
        if count := values.size - int(np.isfinite(values).sum()):
            raise not_finite_error(stored, spec, count)
        squares += _squares(values)
        rows += piece.rows
        for kind, kernel in kernels.items():
            tried = replace(piece, tensor=replace(piece.tensor, type=kind))
            data = quantize_piece(tried, raw, kernel, (importances or {}).get(kind)).data
            back = dequantize(kind, data).reshape(values.shape)
            errors[kind] += float(_squares(values - back) @ weights)
    whole = spec.rows / rows
    energy, calm = float(squares @ weights), float(squares @ capped)
    scaled = {kind: error * whole for kind, error in errors.items()}
    return Measured(spec, float(weights.mean()), energy * whole, calm * whole, scaled)


def sampled_nbytes(matrices: Collection[tuple[TensorSpec, StoredTensor]]) -> int:
    """Bytes that measuring these reads."""
    return sum(
        sum(count for _, count in _runs(spec)) * spec.columns * ITEM_SIZES[stored.dtype]
        for spec, stored in matrices
    )


def _sampled(spec: TensorSpec, stored: StoredTensor, pairs: tuple[Pair, ...]) -> Iterator[Piece]:
    planned = PlannedTensor(spec, GGMLQuantizationType.F32, 0, 0)
    for first, count in _runs(spec):
        yield Piece(planned, stored, first, count, 0, pairs)


def _runs(spec: TensorSpec) -> Iterator[tuple[int, int]]:
    """The first row and how many, of each run."""
    if spec.parameters <= 2 * SAMPLED:
        most = max(PIECE // spec.columns, 1)
        yield from ((row, min(most, spec.rows - row)) for row in range(0, spec.rows, most))
        return
    count = min(max(SAMPLED // RUNS // spec.columns, 1), spec.rows)
    places = sorted({(spec.rows - count) * run // (RUNS - 1) for run in range(RUNS)})
    yield from ((row, count) for row in places)


def _squares(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sums of squares by column."""
    sums: NDArray[np.float32] = np.einsum("ij,ij->j", values, values)
    return sums
