"""The compiled quantizers for IQ4_XS and IQ4_NL: ggml's quantize_row_iq4_nl_impl.

Import this only where numba is installed. See lanes for how it works.
"""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from convert.kernels.lanes import (
    BLOCK,
    BLOCKS,
    GROUP,
    LARGEST,
    LARGEST_HALF,
    NOTHING,
    ONE,
    REACH,
    ROUND,
    ZERO,
    carray,
    compiled,
    half,
    load,
    load_importances,
    stack,
)
from convert.kernels.scales import (
    SCALE,
    UNSURE,
    block_squares,
    square_weights,
    weigh,
)

SUB = 32  # values a sub-block
LANES = GROUP // SUB
PER_BLOCK = BLOCK // SUB
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
def quantize_iq4_xs(
    values: NDArray[np.float32],
    bits: NDArray[np.uint16],
    importances: NDArray[np.float32],
    out: NDArray[np.uint8],
    left: NDArray[np.uint8],
) -> np.uint32:
    """Quantize values to IQ4_XS blocks; the arguments and the result are quantize_q4_q5's."""
    return _quantize(values, bits, importances, out, left, True)


@compiled
def quantize_iq4_nl(
    values: NDArray[np.float32],
    bits: NDArray[np.uint16],
    importances: NDArray[np.float32],
    out: NDArray[np.uint8],
    left: NDArray[np.uint8],
) -> np.uint32:
    """Quantize values to IQ4_NL blocks; the arguments and the result are quantize_q4_q5's."""
    return _quantize(values, bits, importances, out, left, False)


@compiled
def _quantize(
    values: NDArray[np.float32],
    bits: NDArray[np.uint16],
    importances: NDArray[np.float32],
    out: NDArray[np.uint8],
    left: NDArray[np.uint8],
    super_blocks: bool,
) -> np.uint32:
    important = stack(GROUP)
    space = stack(GROUP)
    flat = carray(space, (GROUP,))
    lanes, weights = carray(space, (LANES, SUB)), carray(important, (LANES, SUB))
    fits = carray(stack(GROUP), (8, LANES))
    squares = carray(stack(GROUP), (LANES,))
    together = BLOCKS if super_blocks else LANES
    size = GROUP // together
    blocks = out.shape[0]
    largest = np.uint32(0)
    for start in range(0, blocks, together):
        count = min(together, blocks - start)
        first, last = start * size, (start + count) * size
        largest = max(largest, load(values[first:last], bits[first:last], flat))
        if importances.size > 0:
            load_importances(importances, first, carray(important, (GROUP,)))
            if super_blocks:
                block_squares(lanes, squares, np.float32(2))
            else:
                _sub_squares(lanes, squares)
            weigh(lanes, squares, weights)
        else:
            square_weights(lanes, weights)
        _search(lanes, weights, fits)
        for block in range(count):
            at = start + block
            if super_blocks:
                left[at] = _pack_super(lanes, fits, block, out[at])
            else:
                left[at] = _pack(lanes[block], fits, block, out[at])
    return largest


@compiled
def _sub_squares(row: NDArray[np.float32], squares: NDArray[np.float32]) -> None:
    """For each lane twice the mean square of its values."""
    for k in range(LANES):
        squares[k] = ZERO
    for i in range(SUB):
        for k in range(LANES):
            v = row[k, i]
            squares[k] += v * v
    for k in range(LANES):
        squares[k] *= np.float32(2) / np.float32(SUB)


@compiled
def _search(
    row: NDArray[np.float32], weights: NDArray[np.float32], fits: NDArray[np.float32]
) -> None:
    """The best scale for each lane."""
    x = carray(stack(GROUP), (SUB, LANES))
    weight = carray(stack(GROUP), (SUB, LANES))
    sums = carray(stack(GROUP), (7, LANES))
    peak, extreme, factor, sum_qx, sum_q2 = sums[0], sums[1], sums[2], sums[3], sums[4]
    scale, best = sums[5], sums[6]
    for k in range(LANES):
        for i in range(SUB):
            x[i, k] = row[k, i]
            weight[i, k] = weights[k, i]
    for k in range(LANES):
        peak[k] = ZERO
        extreme[k] = ZERO
    for i in range(SUB):
        for k in range(LANES):
            v = x[i, k]
            a = abs(v)
            extreme[k] = v if a > peak[k] else extreme[k]
            peak[k] = a if a > peak[k] else peak[k]
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
def _pack(
    row: NDArray[np.float32], fits: NDArray[np.float32], lane: int, out: NDArray[np.uint8]
) -> int:
    """Write a block of IQ4_NL; 1 where it is left to ggml."""
    scale = fits[SCALE, lane]
    inverse = ONE / scale
    sure = fits[UNSURE, lane] == ZERO and abs(scale) <= LARGEST_HALF and abs(inverse) <= LARGEST
    if not sure:
        return 1
    d_bits, _ = half(scale)
    out[0], out[1] = d_bits & 255, d_bits >> 8
    _pack_levels(row, inverse, out[2:18])
    return 0


@compiled
def _pack_super(
    lanes: NDArray[np.float32], fits: NDArray[np.float32], block: int, out: NDArray[np.uint8]
) -> int:
    """Write a super-block of IQ4_XS; 1 where it is left to ggml."""
    lane = block * PER_BLOCK
    extreme = peak = ZERO
    for j in range(PER_BLOCK):
        scale = fits[SCALE, lane + j]
        if fits[UNSURE, lane + j] != ZERO or not abs(scale) <= LARGEST:
            return 1
        if abs(scale) > peak:
            peak = abs(scale)
            extreme = scale
    d = -extreme / np.float32(32)
    inverse = ONE / d
    if not (d != ZERO and abs(d) <= LARGEST_HALF and abs(inverse) <= LARGEST):
        return 1
    d_bits, _ = half(d)
    out[0], out[1] = d_bits & 255, d_bits >> 8
    high = 0
    for j in range(PER_BLOCK):
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
        _pack_levels(lanes[lane + j], factor, out[8 + 16 * j : 24 + 16 * j])
    out[2], out[3] = high & 255, high >> 8
    return 0


@compiled
def _pack_levels(row: NDArray[np.float32], factor: np.float32, out: NDArray[np.uint8]) -> None:
    """The levels of 32 values, two a byte."""
    for i in range(16):
        out[i] = _level(factor * row[i]) | (_level(factor * row[16 + i]) << 4)
