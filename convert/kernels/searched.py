"""Q8_0 by a search for each block's scale, in NumPy: what a compiled kernel does sooner.

ggml divides a block's largest magnitude by 127. Of scales near that one, at which the errors of
rounding are as good as drawn anew, the best has a fifth less of their squares. The type stays.
"""

import numpy as np
from gguf import GGMLQuantizationType
from numpy.typing import NDArray

from convert.kernels.ggml import Kernel, Values, as_float32, ggml_kernel, largest_magnitude
from convert.kernels.unbiased import unbiased_kernel

SEARCHED = (GGMLQuantizationType.Q8_0,)
SUB = 32  # values a block
NBYTES = 34  # a block
TOP = np.float32(127)
FIRST, STEP, TRIALS = 127.45, 0.4, 24  # levels that the largest magnitude is to get
LEVELS = (FIRST - STEP * np.arange(TRIALS)).astype(np.float32)
SPLIT = np.float32(8193)  # 2**13 + 1: leaves 11 of float32's 24 binary places (Veltkamp)
SMALLEST_HALF = np.float32(2.0**-14)  # that isn't subnormal
LARGEST_HALF = np.float32(65504)
ONE_HALF = np.float32(0.5)  # its last binary place is that of the subnormal halves, 2**-24
BLOCKS = 2048  # that are quantized together


def searched_kernel(kind: GGMLQuantizationType) -> Kernel:
    """The kernel that searches further than ggml's, else ggml's with its blocks' scales mended."""
    return to_q8_0 if kind in SEARCHED else unbiased_kernel(kind, ggml_kernel(kind))


def to_q8_0(
    values: Values, out: NDArray[np.uint8], importances: NDArray[np.float32] | None = None
) -> int:
    """A Kernel: blocks of Q8_0 whose scales leave the least error, weighed by importances."""
    rows, target = as_float32(values).reshape(-1, SUB), out.reshape(-1, NBYTES)
    weights = None if importances is None else importances.reshape(-1, SUB)
    with np.errstate(all="ignore"):  # values that aren't finite are told by the result
        for first in range(0, len(rows), BLOCKS):
            part = np.ascontiguousarray(rows[first : first + BLOCKS].T)
            places = np.arange(first, first + part.shape[1])
            own = None if weights is None else weights[places % len(weights)].T
            scale, levels = _best(part, own)
            block = target[first : first + BLOCKS]
            block[:, :2] = scale.astype("<f2").view(np.uint8).reshape(-1, 2)
            block[:, 2:] = levels.T.astype(np.int8).view(np.uint8)
    return largest_magnitude(values)


def _best(
    values: NDArray[np.float32], weights: NDArray[np.float32] | None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Scales, of shape (blocks,), and levels, of shape (32, blocks), of values of that shape."""
    peak = np.abs(values).max(axis=0)
    least = best = None
    for level in LEVELS:
        scale = _half(np.minimum(peak / level, LARGEST_HALF))
        error = values - _levels(values, scale) * scale
        error *= error if weights is None else error * weights
        total = np.add.reduce(error, axis=0)
        if least is None or best is None:
            least, best = total, scale
        else:
            better = total < least
            least, best = np.where(better, total, least), np.where(better, scale, best)
    assert best is not None
    return best, _levels(values, best)


def _levels(values: NDArray[np.float32], scale: NDArray[np.float32]) -> NDArray[np.float32]:
    factor = np.where(scale > 0, np.float32(1) / scale, np.float32(0))
    levels: NDArray[np.float32] = np.clip(np.rint(values * factor), -TOP, TOP)
    return levels


def _half(scale: NDArray[np.float32]) -> NDArray[np.float32]:
    """The nearest half-precision numbers, but for ties, of positive ones."""
    wide = scale * SPLIT
    subnormal = (scale + ONE_HALF) - ONE_HALF
    return np.where(scale >= SMALLEST_HALF, wide - (wide - scale), subnormal)
