"""The compiled quantizers for IQ4_XS and IQ4_NL: ggml's quantize_row_iq4_nl_impl.

Import this only where numba is installed. See lanes for how it works.
"""

# ruff: noqa: ARG001 - the functions of every type take what those of one need

from itertools import pairwise
from typing import Any

import numpy as np

from convert.kernels.lanes import (
    BLOCK,
    LARGEST,
    LARGEST_HALF,
    NOTHING,
    ONE,
    REACH,
    SCALE,
    UNKNOWN,
    WIDE,
    ZERO,
    Bytes,
    Floats,
    by_lanes,
    compiled,
    keep,
    quantizer,
    rounded,
    weigh_by_block,
    write_half,
)
from convert.kernels.scales import extreme_scale
from convert.kernels.vectors import filled, load, select, store

SUB = 32  # values a sub-block
SUBS = BLOCK // SUB
STEPS = 7
LOWEST = np.float32(-127)
# The 16 values that levels stand for, kvalues_iq4nl of ggml-common.h. A value's level is how many
# of the midpoints between neighbours it reaches: ggml rounds those up.
LEVELS = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
MIDPOINTS = np.array([(a + b) / 2 for a, b in pairwise(LEVELS)], np.float32)
STEPS_UP = np.diff(LEVELS).astype(np.float32)


@compiled
def _nearest(x: Any) -> Any:
    """The one of LEVELS that each of a vector's values is rounded to."""
    none, value = filled(ZERO, WIDE), filled(LOWEST, WIDE)
    for i in range(15):
        value += select(x >= MIDPOINTS[i], filled(STEPS_UP[i], WIDE), none)
    return value


@compiled
def _levels(x: Any) -> Any:
    """Their indices."""
    none, one = filled(np.int32(0), WIDE), filled(np.int32(1), WIDE)
    level = none
    for i in range(15):
        level += select(x >= MIDPOINTS[i], one, none)
    return level


@compiled
def _search(x: Floats, weight: Floats, weighted: bool, fits: Floats, lane: int) -> None:
    """The best scale for each lane; without importances the weights are the values' squares."""
    none = filled(ZERO, WIDE)
    extreme = none
    for i in range(SUB):
        v = load(x, i * WIDE, WIDE)
        extreme = select(abs(v) > abs(extreme), v, extreme)
        if not weighted:
            store(weight, i * WIDE, v * v)
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
            sure = select(sum_q2 <= LARGEST, abs(extreme), none)
        scale = select(better, d, scale)
        best = select(better, d * sum_qx, best)
    sure = (sure >= NOTHING) & (sure <= LARGEST)
    keep(fits, SCALE, lane, select(sure, scale, filled(UNKNOWN, WIDE)))


@compiled
def _pack_nl(row: Floats, fits: Floats, lane: int, weighted: bool, out: Bytes) -> int:
    scale = fits[SCALE, lane]
    inverse = ONE / scale
    if not (abs(scale) <= LARGEST_HALF and abs(inverse) <= LARGEST):
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
        level = max(min(rounded(level), np.float32(31)), np.float32(-32))
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


_search_all = by_lanes(_search, SUB)
quantize_xs = quantizer(SUB, BLOCK, weigh_by_block(SUB, 2), _search_all, _pack_xs)
quantize_nl = quantizer(SUB, SUB, weigh_by_block(SUB, 2, SUB), _search_all, _pack_nl)
