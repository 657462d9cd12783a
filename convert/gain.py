"""What an importance matrix gained a file: its columns' errors, with it and without."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp, log

import numpy as np

from convert import system
from convert.checkpoint import Checkpoint
from convert.header import PlannedTensor
from convert.importance import ImportanceMatrix, importances_for
from convert.kernels import SEARCHED
from convert.measure import measure
from convert.pipeline import kernels_for
from convert.pool import Pool
from convert.quantization import NEED_IMPORTANCE, UNQUANTIZED
from convert.weights import reading

Progress = Callable[[str, int, int], None]  # what was measured, matrices so far, and all


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
