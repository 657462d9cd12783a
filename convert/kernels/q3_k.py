"""The compiled quantizer for Q3_K: ggml's quantize_row_q3_K_ref and quantize_row_q3_K_impl.

Import this only where numba is installed. See lanes for how it works.
"""

import numpy as np

from convert.kernels.lanes import (
    BLOCK,
    BLOCKS,
    FACTOR,
    GROUP,
    LARGEST,
    LARGEST_HALF,
    LOW,
    NOTHING,
    ONE,
    PEAK,
    REACH,
    ROUND,
    SCALE,
    UNSURE,
    WEIGHTS,
    ZERO,
    Bytes,
    Floats,
    carray,
    compiled,
    quantizer,
    stack,
    weigh_by_block,
    write_half,
)
from convert.kernels.q2_k import pack_twos
from convert.kernels.scales import extreme_scale, find_peaks, scale_search, signed_levels

SUB = 16  # values a sub-block
LANES = GROUP // SUB
SUBS = BLOCK // SUB
TOP = np.float32(3)
BOTTOM = np.float32(-4)
TOP_SCALE = np.float32(31)
BOTTOM_SCALE = np.float32(-32)
BLOCK_SCALE = LOW  # a row of fits that this type has no other use for

_search_by_importance = scale_search(SUB, BOTTOM, TOP)
_search_scales = scale_search(SUBS, BOTTOM_SCALE, TOP_SCALE, BLOCKS)


@compiled
def _search(lanes: Floats, weights: Floats, weighted: bool, fits: Floats) -> None:
    """With importances the scale of each block's scales, and their factor, go to its first lane."""
    if not weighted:
        _search_alone(lanes, fits)
        return
    _search_by_importance(lanes, weights, True, fits)
    for k in range(LANES):
        fits[WEIGHTS, k] = ZERO
        for i in range(SUB):
            fits[WEIGHTS, k] += weights[k, i]
    blocks = carray(stack(BLOCK), (8, BLOCKS))
    scales = fits[SCALE].reshape(BLOCKS, SUBS)
    _search_scales(scales, fits[WEIGHTS].reshape(BLOCKS, SUBS), True, blocks)
    for block in range(BLOCKS):
        sure = blocks[UNSURE, block] == ZERO
        fits[BLOCK_SCALE, block * SUBS] = blocks[SCALE, block] if sure else ZERO
        fits[FACTOR, block * SUBS] = blocks[FACTOR, block]


@compiled
def _search_alone(lanes: Floats, fits: Floats) -> None:
    """ggml's make_q3_quants for each lane: levels are changed one by one where that is better."""
    x = carray(stack(GROUP), (SUB, LANES))
    product = carray(stack(GROUP), (SUB, LANES))
    level = carray(stack(GROUP), (SUB, LANES))
    sums = carray(stack(GROUP), (5, LANES))
    peak, extreme, sum_lx, sum_l2, unsure = sums[0], sums[1], sums[2], sums[3], sums[4]
    for k in range(LANES):
        for i in range(SUB):
            x[i, k] = lanes[k, i]
    find_peaks(x, peak, extreme)
    for k in range(LANES):
        sum_lx[k] = ZERO
        sum_l2[k] = ZERO
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
def _pack(row: Floats, fits: Floats, lane: int, weighted: bool, out: Bytes) -> int:
    extreme = extreme_scale(fits, lane, SUBS)
    factor = fits[FACTOR, lane] if weighted else BOTTOM_SCALE / extreme
    inverse = fits[BLOCK_SCALE, lane] if weighted else np.float32(ONE / factor)
    if not (extreme != ZERO and inverse != ZERO and abs(inverse) <= LARGEST_HALF):
        return 1
    unit = write_half(inverse, out, 108)
    for j in range(12):
        out[96 + j] = 0
    for j in range(SUBS):
        level = (factor * fits[SCALE, lane + j] + ROUND) - ROUND
        level = max(min(level, TOP_SCALE), BOTTOM_SCALE)
        q = int(level) + 32
        out[96 + j % 8] |= (q & 15) << (4 if j >= 8 else 0)
        out[104 + j % 4] |= (q >> 4) << (2 * (j // 4))
        fits[SCALE, lane + j] = unit * level
    if not signed_levels(row, fits, lane, BOTTOM, TOP):
        return 1
    for i in range(32):
        high = np.int32(0)
        for j in range(8):
            high |= (np.int32(row[j * 32 + i]) >> np.int32(2)) << np.int32(j)
        out[i] = high
    pack_twos(row, out[32:96])
    return 0


quantize = quantizer(SUB, BLOCK, weigh_by_block(SUB, 2), _search, _pack)
