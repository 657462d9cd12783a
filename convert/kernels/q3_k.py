"""The compiled quantizer for Q3_K: ggml's quantize_row_q3_K_ref and quantize_row_q3_K_impl.

Import this only where numba is installed. See lanes for how it works.
"""

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
    BLOCK_SCALE,
    FACTOR,
    PEAK,
    SCALE,
    UNSURE,
    block_squares,
    pack_twos,
    scale_search,
    signed_levels,
    weigh,
)

SUB = 16  # values a sub-block
LANES = GROUP // SUB
TOP = np.float32(3)
BOTTOM = np.float32(-4)
TOP_SCALE = np.float32(31)
BOTTOM_SCALE = np.float32(-32)

search_by_importance = scale_search(SUB)


@compiled
def quantize_q3(
    values: NDArray[np.float32],
    bits: NDArray[np.uint16],
    importances: NDArray[np.float32],
    out: NDArray[np.uint8],
    left: NDArray[np.uint8],
) -> np.uint32:
    """Quantize values to Q3_K blocks; the arguments and the result are quantize_q4_q5's."""
    weighted = importances.size > 0
    important = stack(GROUP)
    space = stack(GROUP)
    flat, row = carray(space, (GROUP,)), carray(space, (BLOCKS, BLOCK))
    lanes, weights = carray(space, (LANES, SUB)), carray(important, (LANES, SUB))
    fits = carray(stack(GROUP), (8, LANES))
    squares = carray(stack(GROUP), (LANES,))
    blocks = out.shape[0]
    largest = np.uint32(0)
    for start in range(0, blocks, BLOCKS):
        count = min(BLOCKS, blocks - start)
        first, last = start * BLOCK, (start + count) * BLOCK
        largest = max(largest, load(values[first:last], bits[first:last], flat))
        if weighted:
            load_importances(importances, first, carray(important, (GROUP,)))
            block_squares(lanes, squares, np.float32(2))
            weigh(lanes, squares, weights)
            search_by_importance(lanes, weights, True, fits, BOTTOM, TOP)
            signed_levels(fits, BOTTOM_SCALE, TOP_SCALE)
        else:
            _search(lanes, fits)
        for block in range(count):
            at = start + block
            left[at] = 1
            if _scales(fits, block, out[at], weighted):
                left[at] = _pack(row[block], fits, block, out[at])
    return largest


@compiled
def _search(row: NDArray[np.float32], fits: NDArray[np.float32]) -> None:
    """ggml's make_q3_quants for each lane: levels are changed one by one where that is better."""
    x = carray(stack(GROUP), (SUB, LANES))
    product = carray(stack(GROUP), (SUB, LANES))
    level = carray(stack(GROUP), (SUB, LANES))
    sums = carray(stack(GROUP), (5, LANES))
    peak, extreme, sum_lx, sum_l2, unsure = sums[0], sums[1], sums[2], sums[3], sums[4]
    for k in range(LANES):
        for i in range(SUB):
            x[i, k] = row[k, i]
    for k in range(LANES):
        peak[k] = ZERO
        extreme[k] = ZERO
        sum_lx[k] = ZERO
        sum_l2[k] = ZERO
    for i in range(SUB):
        for k in range(LANES):
            v = x[i, k]
            a = abs(v)
            extreme[k] = v if a > peak[k] else extreme[k]
            peak[k] = a if a > peak[k] else peak[k]
    for i in range(SUB):
        for k in range(LANES):
            v = x[i, k]
            w = v * v
            q = (BOTTOM / extreme[k] * v + ROUND) - ROUND
            q = TOP if q > TOP else q
            q = BOTTOM if q < BOTTOM else q
            level[i, k] = q
            product[i, k] = w * v
            sum_lx[k] += (w * v) * q
            sum_l2[k] += (w * q) * q
    for k in range(LANES):
        sure = (sum_l2[k] <= LARGEST) & (peak[k] >= NOTHING) & (peak[k] <= LARGEST)
        unsure[k] = ZERO if sure else ONE
    for _ in range(5):  # ggml leaves when nothing changes, and nothing would change after that
        for i in range(SUB):
            for k in range(LANES):
                v, q = x[i, k], level[i, k]
                w = v * v
                part_x = sum_lx[k] - product[i, k] * q
                part_l2 = sum_l2[k] - (w * q) * q
                ideal = v * part_l2 / part_x
                far = (part_x > ZERO) & (not abs(ideal) <= REACH)
                unsure[k] = ONE if far else unsure[k]
                n = (ideal + ROUND) - ROUND
                n = TOP if n > TOP else n
                n = BOTTOM if n < BOTTOM else n
                new_x = part_x + product[i, k] * n
                new_l2 = part_l2 + (w * n) * n
                better = new_x * new_x * sum_l2[k] > sum_lx[k] * sum_lx[k] * new_l2
                better &= (part_x > ZERO) & (n != q) & (new_l2 > ZERO)
                level[i, k] = n if better else q
                sum_lx[k] = new_x if better else sum_lx[k]
                sum_l2[k] = new_l2 if better else sum_l2[k]
    for k in range(LANES):
        s = sum_lx[k] / sum_l2[k]
        fits[SCALE, k] = s if sum_l2[k] > ZERO else ZERO
        fits[PEAK, k] = peak[k]
        fits[UNSURE, k] = unsure[k]


@compiled
def _scales(fits: NDArray[np.float32], block: int, out: NDArray[np.uint8], weighted: bool) -> bool:
    """Replace a super-block's scales by the rounded ones; False where it is left to ggml."""
    lane = block * 16
    scales = fits[SCALE, lane : lane + 16]
    levels = carray(stack(16), (16,))
    extreme = peak = ZERO
    for j in range(16):
        if fits[UNSURE, lane + j] != ZERO or not abs(scales[j]) <= LARGEST:
            return False
        if abs(scales[j]) > peak:
            peak = abs(scales[j])
            extreme = scales[j]
    if peak < NOTHING:
        return False
    if weighted:
        inverse = fits[BLOCK_SCALE, lane]
        for j in range(16):
            levels[j] = fits[FACTOR, lane + j]
    else:
        factor = BOTTOM_SCALE / extreme
        inverse = np.float32(ONE / factor)
        for j in range(16):
            q = (factor * scales[j] + ROUND) - ROUND
            levels[j] = max(min(q, TOP_SCALE), BOTTOM_SCALE)
    if not (inverse != ZERO and abs(inverse) <= LARGEST_HALF):
        return False
    d_bits, d_value = half(np.float32(inverse))
    out[108], out[109] = d_bits & 255, d_bits >> 8
    for j in range(12):
        out[96 + j] = 0
    for j in range(16):
        q = int(levels[j]) + 32
        out[96 + j % 8] |= (q & 15) << (4 if j >= 8 else 0)
        out[104 + j % 4] |= (q >> 4) << (2 * (j // 4))
        fits[SCALE, lane + j] = d_value * levels[j]
    return True


@compiled
def _pack(
    row: NDArray[np.float32], fits: NDArray[np.float32], block: int, out: NDArray[np.uint8]
) -> int:
    """Write a super-block's levels; 1 where it is left to ggml."""
    lane = block * 16
    for j in range(16):
        d = fits[SCALE, lane + j]
        if d == ZERO or not fits[PEAK, lane + j] / abs(d) <= REACH:
            return 1
        for i in range(SUB):
            q = (row[j * SUB + i] / d + ROUND) - ROUND
            q = TOP if q > TOP else q
            row[j * SUB + i] = (BOTTOM if q < BOTTOM else q) - BOTTOM
    for i in range(32):
        high = np.int32(0)
        for j in range(8):
            high |= (np.int32(row[j * 32 + i]) >> np.int32(2)) << np.int32(j)
        out[i] = high
    pack_twos(row, out[32:96])
    return 0
