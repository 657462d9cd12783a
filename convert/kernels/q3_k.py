"""The compiled quantizer for Q3_K: ggml's quantize_row_q3_K_ref and quantize_row_q3_K_impl.

Import this only where numba is installed. See lanes for how it works.
"""

from typing import Any

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
    SCALE,
    UNKNOWN,
    WEIGHTS,
    WIDE,
    ZERO,
    Bytes,
    Floats,
    carray,
    compiled,
    keep,
    quantizer,
    rounded,
    weigh_by_block,
    write_half,
)
from convert.kernels.q2_k import pack_twos
from convert.kernels.scales import extreme_scale, scale_search, signed_levels
from convert.kernels.vectors import column, filled, flags, load, select, stack, store, whole

SUB = 16  # values a sub-block
LANES = GROUP // SUB
SUBS = BLOCK // SUB
TOP = np.float32(3)
BOTTOM = np.float32(-4)
TOP_SCALE = np.float32(31)
BOTTOM_SCALE = np.float32(-32)
TIMES = 5  # that ggml goes through a sub-block's levels
TERMS = 4 * SUB * WIDE
VALUE, LEVEL, TERM_LX, TERM_L2 = range(0, 4 * SUB, SUB)  # the first of SUB rows, a lane a column
SUMS = 4 * WIDE
SUM_LX, SUM_L2, DOUBT, LANE = range(4)  # rows
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
        fits[BLOCK_SCALE, block * SUBS] = blocks[SCALE, block]
        fits[FACTOR, block * SUBS] = blocks[FACTOR, block]


@compiled
def _search_alone(lanes: Floats, fits: Floats) -> None:
    """ggml's make_q3_quants for each lane: levels are changed one by one where that is better.

    All lanes are gone through once; those that this changed are gathered, and gone through again.
    """
    first, sums = carray(stack(TERMS), (4 * SUB, WIDE)), carray(stack(SUMS), (4, WIDE))
    again, kept = carray(stack(TERMS), (4 * SUB, WIDE)), carray(stack(SUMS), (4, WIDE))
    none, count = filled(ZERO, WIDE), 0
    for lane in range(0, LANES, WIDE):
        extreme = none
        for i in range(SUB):
            v = column(lanes, lane * SUB + i, SUB, WIDE)
            extreme = select(abs(v) > abs(extreme), v, extreme)
            store(first, (VALUE + i) * WIDE, v)
        peak, factor = abs(extreme), BOTTOM / extreme
        for i in range(SUB):
            q = max(BOTTOM, min(TOP, rounded(factor * load(first, (VALUE + i) * WIDE, WIDE))))
            store(first, (LEVEL + i) * WIDE, q)
        _sum_terms(first, sums)
        sure = (load(sums, SUM_L2 * WIDE, WIDE) <= LARGEST) & (peak >= NOTHING) & (peak <= LARGEST)
        store(sums, DOUBT * WIDE, select(sure, none, filled(ONE, WIDE)))
        changed = _go_through(first, sums)
        keep(fits, SCALE, lane, _quotients(sums))
        keep(fits, PEAK, lane, peak)
        for k in range(WIDE):
            if (changed >> np.uint64(k)) & np.uint64(1):
                for i in range(SUB):
                    again[VALUE + i, count] = first[VALUE + i, k]
                    again[LEVEL + i, count] = first[LEVEL + i, k]
                for row in range(3):
                    kept[row, count] = sums[row, k]
                kept[LANE, count] = np.float32(lane + k)
                count += 1
                if count == WIDE:
                    _go_on(again, kept, count, fits)
                    count = 0
    _go_on(again, kept, count, fits)


@compiled
def _go_on(terms: Floats, sums: Floats, count: int, fits: Floats) -> None:
    """The other times of so many lanes, whose LANE says where they are from."""
    fresh = carray(stack(SUMS), (4, WIDE))  # not those that the changes have led to
    _sum_terms(terms, fresh)
    used = (np.uint64(1) << np.uint64(count)) - np.uint64(1)
    for _ in range(TIMES - 1):
        if _go_through(terms, sums) & used == 0:
            break
    store(fresh, 0, _quotients(sums))
    for k in range(count):
        fits[SCALE, int(sums[LANE, k])] = fresh[0, k]


@compiled
def _sum_terms(terms: Floats, sums: Floats) -> None:
    """Each value's part of both sums, by its level, and these."""
    sum_lx = sum_l2 = filled(ZERO, WIDE)
    for i in range(SUB):
        v, q = load(terms, (VALUE + i) * WIDE, WIDE), load(terms, (LEVEL + i) * WIDE, WIDE)
        lx, l2 = v * v * v * q, v * v * q * q
        store(terms, (TERM_LX + i) * WIDE, lx)
        store(terms, (TERM_L2 + i) * WIDE, l2)
        sum_lx += lx
        sum_l2 += l2
    store(sums, SUM_LX * WIDE, sum_lx)
    store(sums, SUM_L2 * WIDE, sum_l2)


@compiled
def _go_through(terms: Floats, sums: Floats) -> np.uint64:
    """Try to change each level in turn; the lanes in which one was, as bits."""
    none, one = filled(ZERO, WIDE), filled(ONE, WIDE)
    sum_lx, sum_l2 = load(sums, SUM_LX * WIDE, WIDE), load(sums, SUM_L2 * WIDE, WIDE)
    doubt = load(sums, DOUBT * WIDE, WIDE)
    changed = none > ZERO
    for i in range(SUB):
        v, q = load(terms, (VALUE + i) * WIDE, WIDE), load(terms, (LEVEL + i) * WIDE, WIDE)
        lx, l2 = load(terms, (TERM_LX + i) * WIDE, WIDE), load(terms, (TERM_L2 + i) * WIDE, WIDE)
        part_x, part_l2 = sum_lx - lx, sum_l2 - l2
        ideal = v * part_l2 / part_x
        n = max(BOTTOM, min(TOP, rounded(ideal)))
        doubt = select((part_x <= ZERO) | (abs(ideal) <= REACH), doubt, one)
        better = (part_x > ZERO) & (n != q)
        if flags(better) == 0:  # as mostly, so that the next level's sums needn't be waited for
            continue
        new_lx, new_l2 = v * v * v * n, v * v * n * n
        trial_x, trial_l2 = part_x + new_lx, part_l2 + new_l2
        better &= trial_x * trial_x * sum_l2 > sum_lx * sum_lx * trial_l2
        better &= trial_l2 > ZERO
        store(terms, (LEVEL + i) * WIDE, select(better, n, q))
        store(terms, (TERM_LX + i) * WIDE, select(better, new_lx, lx))
        store(terms, (TERM_L2 + i) * WIDE, select(better, new_l2, l2))
        sum_lx = select(better, trial_x, sum_lx)
        sum_l2 = select(better, trial_l2, sum_l2)
        changed |= better
    store(sums, SUM_LX * WIDE, sum_lx)
    store(sums, SUM_L2 * WIDE, sum_l2)
    store(sums, DOUBT * WIDE, doubt)
    return flags(changed)  # type: ignore[no-any-return]


@compiled
def _quotients(sums: Floats) -> Any:
    """The scales that the sums come to."""
    sum_lx, sum_l2 = load(sums, SUM_LX * WIDE, WIDE), load(sums, SUM_L2 * WIDE, WIDE)
    scale = select(sum_l2 > ZERO, sum_lx / sum_l2, filled(ZERO, WIDE))
    return select(load(sums, DOUBT * WIDE, WIDE) == ZERO, scale, filled(UNKNOWN, WIDE))


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
        level = max(min(rounded(factor * fits[SCALE, lane + j]), TOP_SCALE), BOTTOM_SCALE)
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
