"""Types of one scale a sub-block, levels on both sides of zero: the search for it, and its levels.

Import this only where numba is installed. See lanes for how it works.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from convert.kernels.lanes import (
    BLOCK,
    FACTOR,
    GROUP,
    LARGEST,
    NOTHING,
    ONE,
    PEAK,
    REACH,
    ROUND,
    SCALE,
    TENTH,
    UNSURE,
    ZERO,
    Bits,
    Floats,
    carray,
    compiled,
    inlined,
    stack,
)


@inlined
def find_peaks(x: Floats, peak: Floats, extreme: Floats) -> None:
    """For each lane of x, of shape (values, lanes), the largest magnitude, and its value."""
    for k in range(x.shape[1]):
        peak[k] = ZERO
        extreme[k] = ZERO
    for i in range(x.shape[0]):
        for k in range(x.shape[1]):
            v = x[i, k]
            a = abs(v)
            extreme[k] = v if a > peak[k] else extreme[k]
            peak[k] = a if a > peak[k] else peak[k]


@compiled
def weigh_as_given(
    lanes: Floats, weights: Floats, values: Floats, bits: Bits, columns: int, first: int
) -> None:
    """Importances are the weights."""


def scale_search(
    sub: int, bottom: np.float32, top: np.float32, lanes: int = 0
) -> Callable[..., Any]:
    """A compiled function for lanes of so many values that have a scale alone: make_qx_quants.

    Levels go from bottom (negative) to top. Errors are weighed by weights where weighted says so,
    else by the values' squares.
    """
    count = lanes or GROUP // sub

    @compiled
    def search(lanes: Floats, weights: Floats, weighted: bool, fits: Floats) -> None:
        x = carray(stack(GROUP), (sub, count))
        weight = carray(stack(GROUP), (sub, count))
        product = carray(stack(GROUP), (sub, count))
        sums = carray(stack(GROUP), (8, count))
        peak, extreme, factor, sum_lx = sums[0], sums[1], sums[2], sums[3]
        sum_l2, scale, best, chosen = sums[4], sums[5], sums[6], sums[7]
        for k in range(count):
            for i in range(sub):
                x[i, k] = lanes[k, i]
        if weighted:
            for k in range(count):
                for i in range(sub):
                    weight[i, k] = weights[k, i]
        else:
            for i in range(sub):
                for k in range(count):
                    weight[i, k] = x[i, k] * x[i, k]
        find_peaks(x, peak, extreme)
        for i in range(sub):
            for k in range(count):
                product[i, k] = weight[i, k] * x[i, k]
        for step in range(-10, 10):  # ggml's first trial, at -10 here, is the one for step 0
            shift = ZERO if step == -10 else TENTH * np.float32(step)
            numerator = bottom - shift
            if step == 0:
                continue
            for k in range(count):
                factor[k] = numerator / extreme[k]
                sum_lx[k] = ZERO
                sum_l2[k] = ZERO
            for i in range(sub):
                for k in range(count):
                    q = (factor[k] * x[i, k] + ROUND) - ROUND
                    q = top if q > top else q
                    q = bottom if q < bottom else q
                    sum_lx[k] += product[i, k] * q
                    sum_l2[k] += (weight[i, k] * q) * q
            if step == -10:
                for k in range(count):
                    s = sum_lx[k] / sum_l2[k]
                    scale[k] = ZERO if sum_l2[k] == ZERO else s
                    best[k] = scale[k] * sum_lx[k]
                    chosen[k] = factor[k]
                    sure = (sum_l2[k] <= LARGEST) & (peak[k] >= NOTHING) & (peak[k] <= LARGEST)
                    fits[UNSURE, k] = ZERO if sure else ONE
            else:
                for k in range(count):
                    s = sum_lx[k] / sum_l2[k]
                    better = (sum_l2[k] > ZERO) & (sum_lx[k] * sum_lx[k] > best[k] * sum_l2[k])
                    scale[k] = s if better else scale[k]
                    best[k] = s * sum_lx[k] if better else best[k]
                    chosen[k] = factor[k] if better else chosen[k]
        for k in range(count):
            fits[SCALE, k] = scale[k]
            fits[PEAK, k] = peak[k]
            fits[FACTOR, k] = chosen[k]

    return search


@inlined
def extreme_scale(fits: Floats, lane: int, count: int) -> np.float32:
    """The one of so many lanes' scales that is farthest from 0; 0 where one is ggml's to find."""
    extreme = peak = ZERO
    for j in range(count):
        scale = fits[SCALE, lane + j]
        if fits[UNSURE, lane + j] != ZERO or not abs(scale) <= LARGEST:
            return ZERO
        if abs(scale) > peak:
            peak = abs(scale)
            extreme = scale
    return extreme if peak >= NOTHING else ZERO


@inlined
def signed_levels(
    row: Floats, fits: Floats, lane: int, bottom: np.float32, top: np.float32
) -> bool:
    """Replace a super-block's values by their levels above bottom; False where it is left to ggml.

    Its sub-blocks have 16 values.
    """
    divisor = carray(stack(BLOCK), (BLOCK,))
    for j in range(16):
        d = fits[SCALE, lane + j]
        if d == ZERO or not fits[PEAK, lane + j] / abs(d) <= REACH:
            return False
        for i in range(16):
            divisor[j * 16 + i] = d
    for i in range(BLOCK):
        q = (row[i] / divisor[i] + ROUND) - ROUND
        q = top if q > top else q
        row[i] = (bottom if q < bottom else q) - bottom
    return True
