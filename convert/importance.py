"""Importance matrices: how much each column of a weight matrix matters, from a model's activations.

A column's importance is the mean square of the activations it is multiplied with; quantizers weigh
the errors of that column's values by it.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from convert.errors import ImportanceError
from convert.quantization import ENDS, Origin
from convert.tensors import TensorSpec

# More than any activation's square: with larger ones sums of errors overflow, over which ggml ends
# the process in some types.
MOST = np.float32(1e20)


@dataclass(frozen=True)
class Entry:
    """Of one weight matrix: sums of squares by column, float32 of shape (columns,), and of how many
    activations."""

    sums: NDArray[np.float32]
    count: float

    @property
    def importances(self) -> NDArray[np.float32]:
        """Mean squares, float32 of shape (columns,)."""
        return self.sums / np.float32(self.count)


@dataclass(frozen=True)
class ImportanceMatrix:
    """The entries by their tensors' GGUF names, and what they were measured on.

    chunks texts of chunk_size tokens each were evaluated, of the files that datasets names; both
    are 0 where they aren't known.
    """

    entries: Mapping[str, Entry]
    datasets: tuple[str, ...] = ()
    chunks: int = 0
    chunk_size: int = 0
    file: str = field(default="", compare=False)

    @property
    def origin(self) -> Origin:
        dataset = self.datasets[0] if self.datasets else ""
        return Origin(self.file, dataset, len(self.entries), self.chunks)


@np.errstate(over="ignore")  # told by checked_entry
def merged_importances(matrices: Iterable[ImportanceMatrix]) -> ImportanceMatrix:
    """The matrix of all the activations together.

    Raises ImportanceError for different models, or where their sums make no sense.
    """
    first, *others = matrices
    size = max(matrix.chunk_size for matrix in (first, *others))
    entries = _by_activation(first, size)
    for other in others:
        if other.entries.keys() != entries.keys():
            odd = min(other.entries.keys() ^ entries.keys())
            raise ImportanceError(f"it isn't of {first.file}'s model: {odd}", file=other.file)
        for name, entry in _by_activation(other, size).items():
            before = entries[name]
            if entry.sums.shape != before.sums.shape:
                raise ImportanceError(f"{name} isn't as wide as in {first.file}", file=other.file)
            sums, count = before.sums + entry.sums, before.count + entry.count
            entries[name] = checked_entry(other.file, name, sums, [count])
    return ImportanceMatrix(
        entries,
        tuple(name for matrix in (first, *others) for name in matrix.datasets),
        sum(matrix.chunks for matrix in (first, *others)),
        size,
        first.file,
    )


def _by_activation(matrix: ImportanceMatrix, size: int) -> dict[str, Entry]:
    """The entries; those of a .dat file, which counts chunks, as if each had size tokens."""
    factor = 1 if matrix.chunk_size else max(size, 1)
    return {
        name: checked_entry(
            matrix.file, name, entry.sums * np.float32(factor), [entry.count * factor]
        )
        for name, entry in matrix.entries.items()
    }


def importances_for(
    matrix: ImportanceMatrix, tensors: Collection[TensorSpec]
) -> dict[str, NDArray[np.float32]]:
    """The importances of a model's matrices by their GGUF names, float32 of shape (columns,).

    Matrices outside blocks may be without. Raises ImportanceError where the matrix isn't of this
    model, naming the tensor.
    """
    file = matrix.file or "the importance matrix"
    wanted = {spec.name: spec for spec in tensors if len(spec.shape) == 2}
    for name, entry in matrix.entries.items():
        if name not in wanted and name not in ENDS:
            fault = f"it is of another model: it has {name}, this one hasn't"
            raise ImportanceError(fault, file=file)
        if name in wanted and entry.sums.size != wanted[name].columns:
            has = f"{name} has {entry.sums.size} importances, and {wanted[name].columns} columns"
            raise ImportanceError(f"it is of another model: {has} here", file=file)
    for name in wanted:
        if name not in matrix.entries and name not in ENDS:
            raise ImportanceError(f"it has no entry for {name}", file=file)
    return {name: matrix.entries[name].importances for name in wanted if name in matrix.entries}


def checked_entry(
    file: str, name: str, sums: NDArray[np.float32], given: Sequence[float] | NDArray[np.float32]
) -> Entry:
    """An entry whose numbers make sense. Raises ImportanceError naming what doesn't."""
    fault, counts = "", np.asarray(given, np.float32)
    if counts.size == 0 or sums.size == 0 or sums.size % counts.size:
        fault = f"{name} has {sums.size} sums for {counts.size} counts"
    elif not np.isfinite(sums).all() or (sums < 0).any():
        fault = f"{name} has sums that are negative, infinite or no numbers"
    elif not (np.isfinite(counts).all() and (counts > 0).all()):
        fault = f"{name} has no count of its activations, or one of 0"
    elif counts.size > 1:
        fault = f"it is of a mixture of experts: {name} has {counts.size} counts; Llama has one"
    elif not (sums / MOST <= counts).all():
        fault = f"{name} has sums that are absurdly large for a count of {counts[0]:g}"
    if fault:
        raise ImportanceError(fault, file=file)
    return Entry(sums, float(counts[0]))
