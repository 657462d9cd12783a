"""The compiled quantizers for IQ4_XS and IQ4_NL: ggml's quantize_row_iq4_nl_impl.

Import this only where numba is installed. See lanes for how it works.
"""

# ruff: noqa: ARG001 - the functions of every type take what those of one need

from itertools import pairwise

import numpy as np

from convert.kernels.lanes import (
    BLOCK,
    GROUP,
    LARGEST,
    LARGEST_HALF,
    NOTHING,
    ONE,
    REACH,
    ROUND,
    SCALE,
    UNSURE,
    ZERO,
    Bits,
    Bytes,
    Floats,
    carray,
    compiled,
    quantizer,
    stack,
    weigh_beside,
    weigh_by_block,
    write_half,
)
from convert.kernels.scales import extreme_scale, find_peaks

SUB = 32  # values a sub-block
SUBS = BLOCK // SUB
LANES = GROUP // SUB
STEPS = 7
LOWEST = np.float32(-127)
# The 16 values that levels stand for, kvalues_iq4nl of ggml-common.h. A value's level is how many
# of the midpoints between neighbours it reaches: ggml rounds those up.
LEVELS = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
MIDPOINTS = tuple(np.float32((a + b) / 2) for a, b in pairwise(LEVELS))
STEPS_UP = tuple(np.float32(b - a) for a, b in pairwise(LEVELS))
M0, M1, M2, M3, M4, M5, M6, M7, M8, M9, M10, M11, M12, M13, M14 = MIDPOINTS
S0, S1, S2, S3, S4, S5, S6, S7, S8, S9, S10, S11, S12, S13, S14 = STEPS_UP


@compiled
def _nearest(x: np.float32) -> np.float32:
    """The one of LEVELS that a value is rounded to."""
    q = LOWEST
    q += S0 if x >= M0 else ZERO
    q += S1 if x >= M1 else ZERO
    q += S2 if x >= M2 else ZERO
    q += S3 if x >= M3 else ZERO
    q += S4 if x >= M4 else ZERO
    q += S5 if x >= M5 else ZERO
    q += S6 if x >= M6 else ZERO
    q += S7 if x >= M7 else ZERO
    q += S8 if x >= M8 else ZERO
    q += S9 if x >= M9 else ZERO
    q += S10 if x >= M10 else ZERO
    q += S11 if x >= M11 else ZERO
    q += S12 if x >= M12 else ZERO
    q += S13 if x >= M13 else ZERO
    q += S14 if x >= M14 else ZERO
    return q


@compiled
def _level(x: np.float32) -> int:
    """Its index."""
    n = 0
    n += 1 if x >= M0 else 0
    n += 1 if x >= M1 else 0
    n += 1 if x >= M2 else 0
    n += 1 if x >= M3 else 0
    n += 1 if x >= M4 else 0
    n += 1 if x >= M5 else 0
    n += 1 if x >= M6 else 0
    n += 1 if x >= M7 else 0
    n += 1 if x >= M8 else 0
    n += 1 if x >= M9 else 0
    n += 1 if x >= M10 else 0
    n += 1 if x >= M11 else 0
    n += 1 if x >= M12 else 0
    n += 1 if x >= M13 else 0
    n += 1 if x >= M14 else 0
    return n


@compiled
def _weigh_by_lane(
    lanes: Floats, weights: Floats, values: Floats, bits: Bits, columns: int, first: int
) -> None:
    """Small values count less, beside twice the mean square of their block."""
    squares = carray(stack(GROUP), (LANES,))
    for k in range(LANES):
        squares[k] = ZERO
    for i in range(SUB):
        for k in range(LANES):
            v = lanes[k, i]
            squares[k] += v * v
    for k in range(LANES):
        squares[k] *= np.float32(2) / np.float32(SUB)
    weigh_beside(lanes, squares, weights)


@compiled
def _search(lanes: Floats, weights: Floats, weighted: bool, fits: Floats) -> None:
    """The best scale for each lane; without importances the weights are the values' squares."""
    x = carray(stack(GROUP), (SUB, LANES))
    weight = carray(stack(GROUP), (SUB, LANES))
    sums = carray(stack(GROUP), (7, LANES))
    peak, extreme, factor, sum_qx, sum_q2 = sums[0], sums[1], sums[2], sums[3], sums[4]
    scale, best = sums[5], sums[6]
    for k in range(LANES):
        for i in range(SUB):
            x[i, k] = lanes[k, i]
            weight[i, k] = weights[k, i] if weighted else x[i, k] * x[i, k]
    find_peaks(x, peak, extreme)
    for step in range(-STEPS - 1, STEPS + 1):  # the first trial is another one than all that follow
        for k in range(LANES):
            if step < -STEPS:
                factor[k] = ONE / (-extreme[k] / LOWEST)
            else:
                factor[k] = (LOWEST + np.float32(step)) / extreme[k]
            sum_qx[k] = ZERO
            sum_q2[k] = ZERO
        for i in range(SUB):
            for k in range(LANES):
                q = _nearest(factor[k] * x[i, k])
                wq = weight[i, k] * q
                sum_qx[k] += wq * x[i, k]
                sum_q2[k] += wq * q
        for k in range(LANES):
            d = sum_qx[k] / sum_q2[k]
            if step < -STEPS:
                sure = (sum_q2[k] <= LARGEST) & (peak[k] >= NOTHING) & (peak[k] <= LARGEST)
                fits[UNSURE, k] = ZERO if sure else ONE
                scale[k] = d if sum_q2[k] > ZERO else ZERO
                best[k] = scale[k] * sum_qx[k]
            else:
                better = (sum_q2[k] > ZERO) & (sum_qx[k] * sum_qx[k] > best[k] * sum_q2[k])
                scale[k] = d if better else scale[k]
                best[k] = d * sum_qx[k] if better else best[k]
    for k in range(LANES):
        fits[SCALE, k] = scale[k]


@compiled
def _pack_nl(row: Floats, fits: Floats, lane: int, weighted: bool, out: Bytes) -> int:
    scale = fits[SCALE, lane]
    inverse = ONE / scale
    sure = fits[UNSURE, lane] == ZERO and abs(scale) <= LARGEST_HALF and abs(inverse) <= LARGEST
    if not sure:
        return 1
    write_half(scale, out, 0)
    _pack_levels(row, inverse, out[2:18])
    return 0


@compiled
def _pack_xs(row: Floats, fits: Floats, lane: int, weighted: bool, out: Bytes) -> int:
    d = -extreme_scale(fits, lane, SUBS) / np.float32(32)
    inverse = ONE / d
    if not (d != ZERO and abs(d) <= LARGEST_HALF and abs(inverse) <= LARGEST):
        return 1
    write_half(d, out, 0)
    high = 0
    for j in range(SUBS):
        level = inverse * fits[SCALE, lane + j]
        if not abs(level) <= REACH:
            return 1
        level = max(min((level + ROUND) - ROUND, np.float32(31)), np.float32(-32))
        step = d * level
        factor = ONE / step if step != ZERO else ZERO
        if not abs(factor) <= LARGEST:
            return 1
        bits = int(level) + 32
        if j % 2 == 0:
            out[4 + j // 2] = bits & 15
        else:
            out[4 + j // 2] |= (bits & 15) << 4
        high |= (bits >> 4) << (2 * j)
        _pack_levels(row[SUB * j : SUB * j + SUB], factor, out[8 + 16 * j : 24 + 16 * j])
    out[2], out[3] = high & 255, high >> 8
    return 0


@compiled
def _pack_levels(row: Floats, factor: np.float32, out: Bytes) -> None:
    """The levels of 32 values, two a byte."""
    for i in range(16):
        out[i] = _level(factor * row[i]) | (_level(factor * row[16 + i]) << 4)


quantize_xs = quantizer(SUB, BLOCK, weigh_by_block(SUB, 2), _search, _pack_xs)
quantize_nl = quantizer(SUB, SUB, _weigh_by_lane, _search, _pack_nl)
