"""Blocks whose scale is changed so that their values are, on the whole, as large as they were.

A scale that leaves the least squared error makes values smaller by the error's share of their
energy; ggml enlarges those of a few types, by a number that is too much for some. Either error is
the weights' own multiple, which moves a model's predictions more than as much error at random: the
built-in demo's some ten times. The type stays, and what it takes.
"""

from collections.abc import Mapping

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from numpy.typing import NDArray

from convert.kernels.ggml import LARGEST_F16, Kernel, Values, as_float32
from convert.kernels.values import dequantize

Type = GGMLQuantizationType
# Where blocks have half-precision numbers that all their values are multiples of: a scale, and
# that of the minimums.
PLACES: Mapping[GGMLQuantizationType, tuple[int, ...]] = {
    **dict.fromkeys((Type.IQ1_S, Type.IQ2_XXS, Type.IQ2_XS, Type.IQ2_S), (0,)),
    **dict.fromkeys((Type.IQ3_XXS, Type.IQ3_S, Type.IQ4_XS, Type.IQ4_NL), (0,)),
    **dict.fromkeys((Type.Q4_0, Type.Q5_0), (0,)),
    **dict.fromkeys((Type.Q4_1, Type.Q5_1, Type.Q4_K, Type.Q5_K), (0, 2)),
    Type.Q2_K: (80, 82),
    Type.Q3_K: (108,),
    Type.Q6_K: (208,),
}
MOST = 2.0  # times that a scale grows or shrinks
TOGETHER = 1 << 16  # values


def unbiased_kernel(kind: GGMLQuantizationType, kernel: Kernel) -> Kernel:
    """The kernel, after which each block is multiplied so that it is as large as its values.

    That is told along these: with values v, weights w and what comes back y, by the sum of w v v
    over that of w v y, summed in float64.
    """
    places = PLACES.get(kind)
    if places is None:
        return kernel

    def run(
        values: Values, out: NDArray[np.uint8], importances: NDArray[np.float32] | None = None
    ) -> int:
        largest = kernel(values, out, importances)
        if largest <= LARGEST_F16:
            with np.errstate(all="ignore"):  # of scales that aren't finite, which stay
                _rescale(kind, places, as_float32(values).reshape(-1), out, importances)
        return largest

    return run


def _rescale(
    kind: GGMLQuantizationType,
    places: tuple[int, ...],
    values: NDArray[np.float32],
    out: NDArray[np.uint8],
    importances: NDArray[np.float32] | None,
) -> None:
    block, nbytes = GGML_QUANT_SIZES[kind]
    rows = out.reshape(-1, nbytes)
    weights = np.ones((1, block)) if importances is None else importances.reshape(-1, block)
    step = TOGETHER // block
    for first in range(0, len(rows), step):
        part = rows[first : first + step]
        own = values[first * block : (first + len(part)) * block].reshape(-1, block)
        back = dequantize(kind, np.ascontiguousarray(part).reshape(-1)).reshape(-1, block)
        important = weights[np.arange(first, first + len(part)) % len(weights)]
        weighed = own.astype(np.float64) * important
        wanted = np.einsum("ij,ij->i", weighed, own.astype(np.float64))
        found = np.einsum("ij,ij->i", weighed, back.astype(np.float64))
        fit = (found > 0) & (wanted > 0)
        factor = np.divide(wanted, found, where=fit, out=np.ones_like(found))
        factor = np.clip(factor, 1 / MOST, MOST)
        for place in places:
            half = np.ascontiguousarray(part[:, place : place + 2]).view("<f2")[:, 0]
            scaled = (half.astype(np.float64) * factor).astype("<f2")
            kept = np.where(np.isfinite(scaled), scaled, half)
            part[:, place : place + 2] = kept.view(np.uint8).reshape(-1, 2)
