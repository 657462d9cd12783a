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
from convert.kernels.scales import extreme_scale, scale_search, signed_levels
from convert.kernels.vectors import column, filled, flags, load, select, store, whole

SUB = 16  # values a sub-block
LANES = GROUP // SUB
SUBS = BLOCK // SUB
TOP = np.float32(3)
BOTTOM = np.float32(-4)
TOP_SCALE = np.float32(31)
BOTTOM_SCALE = np.float32(-32)
WIDE = 16  # lanes that are searched together
SIZE = SUB * WIDE
EVERY = np.uint64((1 << WIDE) - 1)
NEAR = np.float32(0.49)  # of a step: an ideal level so near to a whole one is rounded to it
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
    x = carray(stack(SIZE), (SUB, WIDE))
    product = carray(stack(SIZE), (SUB, WIDE))
    level = carray(stack(SIZE), (SUB, WIDE))
    term_lx = carray(stack(SIZE), (SUB, WIDE))
    term_l2 = carray(stack(SIZE), (SUB, WIDE))
    none = filled(ZERO, WIDE)
    for lane in range(0, LANES, WIDE):
        peak = extreme = sum_lx = sum_l2 = none
        for i in range(SUB):
            v = column(lanes, lane * SUB + i, SUB, WIDE)
            more = abs(v) > peak
            extreme = select(more, v, extreme)
            peak = select(more, abs(v), peak)
            store(x, i * WIDE, v)
        factor = BOTTOM / extreme
        for i in range(SUB):
            v = load(x, i * WIDE, WIDE)
            w = v * v
            q = max(BOTTOM, min(TOP, (factor * v + ROUND) - ROUND))
            store(level, i * WIDE, q)
            store(product, i * WIDE, w * v)
            store(term_lx, i * WIDE, w * v * q)
            store(term_l2, i * WIDE, w * q * q)
            sum_lx += w * v * q
            sum_l2 += w * q * q
        sure = (sum_l2 <= LARGEST) & (peak >= NOTHING) & (peak <= LARGEST)
        for _ in range(5):
            changed = none > ZERO
            for i in range(SUB):
                v, q = load(x, i * WIDE, WIDE), load(level, i * WIDE, WIDE)
                part_x = sum_lx - load(term_lx, i * WIDE, WIDE)
                part_l2 = sum_l2 - load(term_l2, i * WIDE, WIDE)
                near = abs(v * part_l2 - q * part_x) < NEAR * part_x
                if flags(near | (part_x <= ZERO)) == EVERY:  # all levels stay, without a division
                    continue
                ideal = v * part_l2 / part_x
                sure &= (part_x <= ZERO) | (abs(ideal) <= REACH)
                n = max(BOTTOM, min(TOP, (ideal + ROUND) - ROUND))
                new_lx = load(product, i * WIDE, WIDE) * n
                new_l2 = v * v * n * n
                trial_x, trial_l2 = part_x + new_lx, part_l2 + new_l2
                better = trial_x * trial_x * sum_l2 > sum_lx * sum_lx * trial_l2
                better &= (part_x > ZERO) & (n != q) & (trial_l2 > ZERO)
                store(level, i * WIDE, select(better, n, q))
                store(term_lx, i * WIDE, select(better, new_lx, load(term_lx, i * WIDE, WIDE)))
                store(term_l2, i * WIDE, select(better, new_l2, load(term_l2, i * WIDE, WIDE)))
                sum_lx = select(better, trial_x, sum_lx)
                sum_l2 = select(better, trial_l2, sum_l2)
                changed |= better
            if flags(changed) == 0:
                break
        store(fits, SCALE * LANES + lane, select(sum_l2 > ZERO, sum_lx / sum_l2, none))
        store(fits, PEAK * LANES + lane, peak)
        store(fits, UNSURE * LANES + lane, select(sure, none, filled(ONE, WIDE)))


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
    high = whole(load(row, 0, 32)) >> 2
    for j in range(1, 8):
        high |= (whole(load(row, j * 32, 32)) >> 2) << j
    store(out, 0, high)
    pack_twos(row, out[32:96])
    return 0


quantize = quantizer(SUB, BLOCK, weigh_by_block(SUB, 2), _search, _pack)
