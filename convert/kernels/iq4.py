"""The compiled quantizers for IQ4_XS and IQ4_NL: ggml's quantize_row_iq4_nl_impl.

Import this only where numba is installed. See lanes for how it works.
"""

# ruff: noqa: ARG001 - the functions of every type take what those of one need

from itertools import pairwise
from typing import Any

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
from convert.kernels.scales import extreme_scale
from convert.kernels.vectors import column, filled, load, select, store

SUB = 32  # values a sub-block
SUBS = BLOCK // SUB
LANES = GROUP // SUB
STEPS = 7
WIDE = 16  # lanes that are searched together
SIZE = SUB * WIDE
LOWEST = np.float32(-127)
# The 16 values that levels stand for, kvalues_iq4nl of ggml-common.h. A value's level is how many
# of the midpoints between neighbours it reaches: ggml rounds those up.
LEVELS = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
MIDPOINTS = tuple(np.float32((a + b) / 2) for a, b in pairwise(LEVELS))
STEPS_UP = tuple(np.float32(b - a) for a, b in pairwise(LEVELS))
M0, M1, M2, M3, M4, M5, M6, M7, M8, M9, M10, M11, M12, M13, M14 = MIDPOINTS
S0, S1, S2, S3, S4, S5, S6, S7, S8, S9, S10, S11, S12, S13, S14 = STEPS_UP


@compiled
def _nearest(x: Any) -> Any:
    """The one of LEVELS that each of a vector's values is rounded to."""
    none = filled(ZERO, WIDE)
    q = filled(LOWEST, WIDE)
    q += select(x >= M0, filled(S0, WIDE), none)
    q += select(x >= M1, filled(S1, WIDE), none)
    q += select(x >= M2, filled(S2, WIDE), none)
    q += select(x >= M3, filled(S3, WIDE), none)
    q += select(x >= M4, filled(S4, WIDE), none)
    q += select(x >= M5, filled(S5, WIDE), none)
    q += select(x >= M6, filled(S6, WIDE), none)
    q += select(x >= M7, filled(S7, WIDE), none)
    q += select(x >= M8, filled(S8, WIDE), none)
    q += select(x >= M9, filled(S9, WIDE), none)
    q += select(x >= M10, filled(S10, WIDE), none)
    q += select(x >= M11, filled(S11, WIDE), none)
    q += select(x >= M12, filled(S12, WIDE), none)
    q += select(x >= M13, filled(S13, WIDE), none)
    q += select(x >= M14, filled(S14, WIDE), none)
    return q


@compiled
def _levels(x: Any) -> Any:
    """Their indices."""
    none, one = filled(np.int32(0), WIDE), filled(np.int32(1), WIDE)
    n = none
    n += select(x >= M0, one, none)
    n += select(x >= M1, one, none)
    n += select(x >= M2, one, none)
    n += select(x >= M3, one, none)
    n += select(x >= M4, one, none)
    n += select(x >= M5, one, none)
    n += select(x >= M6, one, none)
    n += select(x >= M7, one, none)
    n += select(x >= M8, one, none)
    n += select(x >= M9, one, none)
    n += select(x >= M10, one, none)
    n += select(x >= M11, one, none)
    n += select(x >= M12, one, none)
    n += select(x >= M13, one, none)
    n += select(x >= M14, one, none)
    return n


@compiled
def _weigh_by_lane(
    lanes: Floats, weights: Floats, _squares: Floats, _columns: int, _first: int
) -> None:
    """Small values count less, beside twice the mean square of their block."""
    squares = carray(stack(LANES), (LANES,))
    for lane in range(0, LANES, WIDE):
        sums = filled(ZERO, WIDE)
        for i in range(SUB):
            v = column(lanes, lane * SUB + i, SUB, WIDE)
            sums += v * v
        store(squares, lane, sums * (np.float32(2) / np.float32(SUB)))
    for k in range(LANES):
        weigh_beside(lanes, weights, k, squares[k])


@compiled
def _search(lanes: Floats, weights: Floats, weighted: bool, fits: Floats) -> None:
    """The best scale for each lane; without importances the weights are the values' squares."""
    x = carray(stack(SIZE), (SUB, WIDE))
    weight = carray(stack(SIZE), (SUB, WIDE))
    none = filled(ZERO, WIDE)
    for lane in range(0, LANES, WIDE):
        peak = extreme = none
        for i in range(SUB):
            v = column(lanes, lane * SUB + i, SUB, WIDE)
            more = abs(v) > peak
            extreme = select(more, v, extreme)
            peak = select(more, abs(v), peak)
            store(x, i * WIDE, v)
            w = column(weights, lane * SUB + i, SUB, WIDE) if weighted else v * v
            store(weight, i * WIDE, w)
        scale = best = sure = none
        for step in range(-STEPS - 1, STEPS + 1):  # the first trial is another than all that follow
            factor = (LOWEST + np.float32(step)) / extreme
            if step < -STEPS:
                factor = ONE / (-ONE * extreme / LOWEST)
            sum_qx = sum_q2 = none
            for i in range(SUB):
                v = load(x, i * WIDE, WIDE)
                q = _nearest(factor * v)
                wq = load(weight, i * WIDE, WIDE) * q
                sum_qx += wq * v
                sum_q2 += wq * q
            d = sum_qx / sum_q2
            better = (sum_q2 > ZERO) & (sum_qx * sum_qx > best * sum_q2)
            if step < -STEPS:
                better = sum_q2 > ZERO
                sure = select(sum_q2 <= LARGEST, peak, none)
            scale = select(better, d, scale)
            best = select(better, d * sum_qx, best)
        sure = (sure >= NOTHING) & (sure <= LARGEST)
        store(fits, SCALE * LANES + lane, scale)
        store(fits, UNSURE * LANES + lane, select(sure, none, filled(ONE, WIDE)))


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
    store(out, 0, _levels(factor * load(row, 0, 16)) | (_levels(factor * load(row, 16, 16)) << 4))


quantize_xs = quantizer(SUB, BLOCK, weigh_by_block(SUB, 2), _search, _pack_xs)
quantize_nl = quantizer(SUB, SUB, _weigh_by_lane, _search, _pack_nl)
