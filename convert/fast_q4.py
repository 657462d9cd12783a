"""The compiled quantizer for Q4_K and Q5_K: ggml's quantize_row_q4_K_ref and quantize_row_q5_K_ref.

Import this only where numba is installed. See fast_kernels for how it works.
"""

import numpy as np
from numpy.typing import NDArray

from convert.fast_kernels import (
    BLOCK,
    BLOCKS,
    GROUP,
    LARGEST,
    LARGEST_HALF,
    ONE,
    REACH,
    ROUND,
    ZERO,
    carray,
    compiled,
    half,
    load,
    stack,
)

SUB = 32  # values a sub-block
LANES = GROUP // SUB
SUMS = 16 * LANES
STEP = np.float32(0.1)
LARGEST_SCALE = np.float32(63)

# Rows of the table that the search leaves for each lane.
SCALE, MINIMUM, LOW, HIGH, UNSURE = range(5)


@compiled
def quantize_q4_q5(
    values: NDArray[np.float32],
    bits: NDArray[np.uint16],
    out: NDArray[np.uint8],
    left: NDArray[np.uint8],
    five: bool,
) -> np.uint32:
    """Quantize values (float32), or BF16 bits where values is empty, to Q4_K or Q5_K blocks.

    out has shape (blocks, block bytes). left, of shape (blocks,), gets 1 for each super-block that
    is left to ggml: one with a value that is not finite, a level out of REACH, or a sub-block whose
    scale rounds to 0. The result is the largest magnitude seen, as the bits of a float32.
    """
    top = np.float32(31) if five else np.float32(15)
    first_step = np.float32(-0.5) if five else np.float32(-1)
    steps = 16 if five else 21
    space = stack(GROUP)
    flat, row = carray(space, (GROUP,)), carray(space, (BLOCKS, BLOCK))
    found = carray(stack(SUMS), (16, LANES))
    blocks = out.shape[0]
    largest = np.uint32(0)
    for start in range(0, blocks, BLOCKS):
        count = min(BLOCKS, blocks - start)
        first, last = start * BLOCK, (start + count) * BLOCK
        largest = max(largest, load(values[first:last], bits[first:last], flat))
        _search(carray(space, (LANES, SUB)), found, top, first_step, steps)
        for block in range(count):
            left[start + block] = _pack(row[block], found, block, out[start + block], top, five)
    return largest


@compiled
def _search(
    row: NDArray[np.float32],
    found: NDArray[np.float32],
    top: np.float32,
    first_step: np.float32,
    steps: int,
) -> None:
    """ggml's make_qkx2_quants for each lane, with the weights of its callers."""
    x = carray(stack(GROUP), (SUB, LANES))
    weight = carray(stack(GROUP), (SUB, LANES))
    level = carray(stack(GROUP), (SUB, LANES))
    sums = carray(stack(SUMS), (16, LANES))
    low, high, minimum, scale, unsure = sums[0], sums[1], sums[2], sums[3], sums[4]
    sum_w, sum_x, sum_l, sum_l2, sum_xl = sums[5], sums[6], sums[7], sums[8], sums[9]
    factor, error, best, trial, trial_min = sums[10], sums[11], sums[12], sums[13], sums[14]
    determinant = sums[15]
    for k in range(LANES):
        for i in range(SUB):
            x[i, k] = row[k, i]
    for k in range(LANES):
        low[k] = x[0, k]
        high[k] = x[0, k]
        sum_l2[k] = ZERO
        sum_w[k] = ZERO
        sum_x[k] = ZERO
    for i in range(SUB):
        for k in range(LANES):
            v = x[i, k]
            low[k] = v if v < low[k] else low[k]
            high[k] = v if v > high[k] else high[k]
            sum_l2[k] += v * v
    for k in range(LANES):
        unsure[k] = ZERO if sum_l2[k] <= LARGEST else ONE
        sum_l2[k] = np.sqrt(sum_l2[k] / np.float32(SUB))
    for i in range(SUB):
        for k in range(LANES):
            v = x[i, k]
            w = sum_l2[k] + abs(v)
            weight[i, k] = w
            sum_w[k] += w
            sum_x[k] += w * v
    for k in range(LANES):
        minimum[k] = ZERO if low[k] > ZERO else low[k]
        factor[k] = top / (high[k] - minimum[k])
        scale[k] = ONE / factor[k]
        best[k] = ZERO
        near = abs(factor[k] * (low[k] - minimum[k])) <= REACH
        near &= abs(factor[k] * (high[k] - minimum[k])) <= REACH
        unsure[k] = unsure[k] if near else ONE
    for i in range(SUB):
        for k in range(LANES):
            v = x[i, k]
            q = (factor[k] * (v - minimum[k]) + ROUND) - ROUND
            q = top if q > top else q
            q = ZERO if q < ZERO else q
            d = scale[k] * q + minimum[k] - v
            best[k] += weight[i, k] * (d * d)
    for step in range(steps):
        numerator = first_step + STEP * np.float32(step) + top
        for k in range(LANES):
            factor[k] = numerator / (high[k] - minimum[k])
            near = abs(factor[k] * (low[k] - minimum[k])) <= REACH
            near &= abs(factor[k] * (high[k] - minimum[k])) <= REACH
            unsure[k] = unsure[k] if near else ONE
            sum_l[k] = ZERO
            sum_l2[k] = ZERO
            sum_xl[k] = ZERO
            error[k] = ZERO
        for i in range(SUB):
            for k in range(LANES):
                v = x[i, k]
                q = (factor[k] * (v - minimum[k]) + ROUND) - ROUND
                q = top if q > top else q
                q = ZERO if q < ZERO else q
                level[i, k] = q
                wq = weight[i, k] * q
                sum_l[k] += wq
                sum_l2[k] += wq * q
                sum_xl[k] += wq * v
        for k in range(LANES):
            d = sum_w[k] * sum_l2[k] - sum_l[k] * sum_l[k]
            m = (sum_l2[k] * sum_x[k] - sum_l[k] * sum_xl[k]) / d
            s = (sum_w[k] * sum_xl[k] - sum_x[k] * sum_l[k]) / d
            alone = sum_xl[k] / sum_l2[k]
            trial[k] = alone if m > ZERO else s
            trial_min[k] = ZERO if m > ZERO else m
            determinant[k] = d
        for i in range(SUB):
            for k in range(LANES):
                d = trial[k] * level[i, k] + trial_min[k] - x[i, k]
                error[k] += weight[i, k] * (d * d)
        for k in range(LANES):
            better = (determinant[k] > ZERO) & (error[k] < best[k])
            best[k] = error[k] if better else best[k]
            scale[k] = trial[k] if better else scale[k]
            minimum[k] = trial_min[k] if better else minimum[k]
    for k in range(LANES):
        found[SCALE, k] = scale[k]
        found[MINIMUM, k] = -minimum[k]
        found[LOW, k] = low[k]
        found[HIGH, k] = high[k]
        found[UNSURE, k] = unsure[k]


@compiled
def _pack(
    row: NDArray[np.float32],
    found: NDArray[np.float32],
    block: int,
    out: NDArray[np.uint8],
    top: np.float32,
    five: bool,
) -> int:
    """Round the scales of a super-block and write its bytes; 1 where it is left to ggml."""
    lane = block * 8
    largest_scale = largest_min = ZERO
    for j in range(8):
        largest_scale = max(largest_scale, found[SCALE, lane + j])
        largest_min = max(largest_min, found[MINIMUM, lane + j])
    d_bits, d_value = half(np.float32(largest_scale / LARGEST_SCALE))
    m_bits, m_value = half(np.float32(largest_min / LARGEST_SCALE))
    if not (
        largest_scale > ZERO
        and largest_scale / LARGEST_SCALE <= LARGEST_HALF
        and largest_min / LARGEST_SCALE <= LARGEST_HALF
    ):
        return 1
    inverse = LARGEST_SCALE / largest_scale
    inverse_min = LARGEST_SCALE / largest_min if largest_min > ZERO else ZERO
    out[0], out[1] = d_bits & 255, d_bits >> 8
    out[2], out[3] = m_bits & 255, m_bits >> 8
    for j in range(8):
        scale = inverse * found[SCALE, lane + j]
        minimum = inverse_min * found[MINIMUM, lane + j]
        if not (abs(scale) <= REACH and abs(minimum) <= REACH and found[UNSURE, lane + j] == ZERO):
            return 1
        s = min(int((scale + ROUND) - ROUND) & 255, 63)
        m = min(int((minimum + ROUND) - ROUND) & 255, 63)
        if j < 4:
            out[4 + j] = s
            out[8 + j] = m
        else:
            out[8 + j] = (s & 15) | ((m & 15) << 4)
            out[j] |= (s >> 4) << 6
            out[4 + j] |= (m >> 4) << 6
        d = d_value * np.float32(s)
        shift = m_value * np.float32(m)
        if not (
            d > ZERO
            and abs((found[LOW, lane + j] + shift) / d) <= REACH
            and abs((found[HIGH, lane + j] + shift) / d) <= REACH
        ):
            return 1
        for i in range(SUB):
            q = ((row[j * SUB + i] + shift) / d + ROUND) - ROUND
            q = top if q > top else q
            row[j * SUB + i] = ZERO if q < ZERO else q
    if five:
        for i in range(SUB):
            high = np.int32(0)
            for j in range(8):
                high |= (np.int32(row[j * SUB + i]) >> np.int32(4)) << np.int32(j)
            out[16 + i] = high
    start = 48 if five else 16
    for pair in range(4):
        for i in range(SUB):
            low = np.int32(row[pair * 64 + i]) & np.int32(15)
            high = np.int32(row[pair * 64 + 32 + i]) & np.int32(15)
            out[start + pair * 32 + i] = low | (high << np.int32(4))
    return 0
