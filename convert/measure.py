"""What each type costs each matrix: its error, measured on rows that are quantized and back; and by
how much an importance matrix made a file's errors less.

Of a large matrix a part of the rows is read, runs of them spread evenly over it: always the same
ones, so that the same checkpoint gives the same numbers.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import exp, log

import numpy as np
from gguf import GGMLQuantizationType
from numpy.typing import NDArray

from convert import system
from convert.checkpoint import Checkpoint
from convert.header import PlannedTensor
from convert.importance import ImportanceMatrix, importances_for
from convert.kernels import SEARCHED, Kernel, dequantize
from convert.lora import Pair
from convert.pieces import PIECE, check_magnitude, finite_rows
from convert.pipeline import kernels_for
from convert.pool import Pool
from convert.quantization import NEED_IMPORTANCE, UNQUANTIZED, tensor_nbytes
from convert.safetensors import ITEM_SIZES, StoredTensor, reading
from convert.tensors import TensorSpec

SAMPLED = 1 << 18  # values of a matrix that are read; twice as many are read whole
CALM = 30
RUNS = 8  # of neighbouring rows, each read at once
Progress = Callable[[str, int, int], None]  # what was measured, matrices so far, and all


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
    for first, count in _runs(spec):
        values = finite_rows(spec, stored, pairs, first, count)
        squares += _squares(values)
        rows += count
        for kind, kernel in kernels.items():
            data = np.empty(tensor_nbytes(kind, values.size), np.uint8)
            largest = kernel(values.reshape(-1), data, (importances or {}).get(kind))
            check_magnitude(largest, kind, stored, spec)
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


@dataclass(frozen=True)
class Gain:
    """By how much squared errors, weighed by the matrix, are multiplied by quantizing with it.

    ratio is the geometric mean of so many matrices. unfit is how many have types that can't be made
    without it.
    """

    ratio: float
    matrices: int
    unfit: int


def gain(
    checkpoint: Checkpoint,
    tensors: Sequence[PlannedTensor],
    importance: ImportanceMatrix,
    *,
    searched: bool = False,
    threads: int | None = None,
    progress: Progress = lambda *_: None,
) -> Gain:
    """The gain of a file that has those tensors, measured on the parts that measure reads.

    Types that take no importances count as gaining nothing. searched is that of the file's
    Quantization. Raises ImportanceError, CheckpointError.
    """
    given = importances_for(importance, [tensor.spec for tensor in tensors])
    wanted = [one for one in tensors if one.spec.name in given and one.type not in UNQUANTIZED]
    compared = [one for one in wanted if one.type not in NEED_IMPORTANCE]
    parameters = sum(tensor.spec.parameters for tensor in tensors)
    kinds = {one.type for one in compared}
    kernels = kernels_for(kinds, parameters, None, searched=searched)

    def ratio(one: PlannedTensor) -> float:
        if searched and one.type in SEARCHED:  # by what the columns count, whatever the matrix says
            return 1.0
        spec, weights = one.spec, given[one.spec.name]
        stored, own = checkpoint.weights[spec], {one.type: kernels[one.type]}
        pairs = tuple(checkpoint.pairs.get(spec.source, ()))
        other = {one.type: np.ones_like(weights)} if searched else None
        with_it, without = (
            measure(spec, stored, own, weights, by, pairs).error(one.type)
            for by in ({one.type: weights}, other)
        )
        return with_it / without if with_it and without else 1.0

    logarithms = []
    files = {checkpoint.weights[one.spec].file for one in compared}
    pool = Pool(threads or system.allowed_processors(), "gain")
    with reading(files, pool):
        for one, found in zip(compared, pool.map(ratio, compared), strict=True):
            logarithms.append(log(found))
            progress(one.spec.name, len(logarithms), len(compared))
    mean = exp(sum(logarithms) / len(logarithms)) if logarithms else 1.0
    return Gain(mean, len(compared), len(wanted) - len(compared))
