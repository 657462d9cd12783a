"""The compiled quantizer for Q6_K: ggml's quantize_row_q6_K_ref.

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

SUB = 16  # values a sub-block
LANES = GROUP // SUB
SUMS = 8 * LANES
STEP = np.float32(0.1)
LEVELS = np.float32(32)
TOP = np.float32(31)
BOTTOM = np.float32(-32)
NOTHING = np.float32(1e-15)  # ggml's GROUP_MAX_EPS: a sub-block below it is all zeros

# Rows of the table that the search leaves for each lane.
SCALE, PEAK, UNSURE = range(3)


@compiled
def quantize_q6(
    values: NDArray[np.float32],
    bits: NDArray[np.uint16],
    out: NDArray[np.uint8],
    left: NDArray[np.uint8],
) -> np.uint32:
    """Quantize values (float32), or BF16 bits where values is empty, to Q6_K blocks.

    out has shape (blocks, 210). left, of shape (blocks,), gets 1 for each super-block that is left
    to ggml: one with a value that is not finite, a level out of REACH, or a sub-block whose scale
    rounds to 0. The result is the largest magnitude seen, as the bits of a float32.
    """
    space = stack(GROUP)
    flat, row = carray(space, (GROUP,)), carray(space, (BLOCKS, BLOCK))
    found = carray(stack(SUMS), (8, LANES))
    blocks = out.shape[0]
    largest = np.uint32(0)
    for start in range(0, blocks, BLOCKS):
        count = min(BLOCKS, blocks - start)
        first, last = start * BLOCK, (start + count) * BLOCK
        largest = max(largest, load(values[first:last], bits[first:last], flat))
        _search(carray(space, (LANES, SUB)), found)
        for block in range(count):
            left[start + block] = _pack(row[block], found, block, out[start + block])
    return largest


@compiled
def _search(row: NDArray[np.float32], found: NDArray[np.float32]) -> None:
    """ggml's make_qx_quants for each lane, with the squares of the values as weights."""
    x = carray(stack(GROUP), (SUB, LANES))
    weight = carray(stack(GROUP), (SUB, LANES))
    weighted = carray(stack(GROUP), (SUB, LANES))
    sums = carray(stack(SUMS), (8, LANES))
    peak, extreme, factor, sum_lx = sums[0], sums[1], sums[2], sums[3]
    sum_l2, scale, best = sums[4], sums[5], sums[6]
    for k in range(LANES):
        for i in range(SUB):
            x[i, k] = row[k, i]
    for k in range(LANES):
        peak[k] = ZERO
        extreme[k] = ZERO
    for i in range(SUB):
        for k in range(LANES):
            v = x[i, k]
            a = abs(v)
            extreme[k] = v if a > peak[k] else extreme[k]
            peak[k] = a if a > peak[k] else peak[k]
            weight[i, k] = v * v
            weighted[i, k] = (v * v) * v
    for step in range(-10, 10):  # ggml's first trial, at -10 here, is the one for step 0
        shift = ZERO if step == -10 else STEP * np.float32(step)
        numerator = -(LEVELS + shift)
        if step == 0:
            continue
        for k in range(LANES):
            factor[k] = numerator / extreme[k]
            sum_lx[k] = ZERO
            sum_l2[k] = ZERO
        for i in range(SUB):
            for k in range(LANES):
                q = (factor[k] * x[i, k] + ROUND) - ROUND
                q = TOP if q > TOP else q
                q = BOTTOM if q < BOTTOM else q
                sum_lx[k] += weighted[i, k] * q
                sum_l2[k] += (weight[i, k] * q) * q
        if step == -10:
            for k in range(LANES):
                s = sum_lx[k] / sum_l2[k]
                scale[k] = ZERO if sum_l2[k] == ZERO else s
                best[k] = scale[k] * sum_lx[k]
                sure = (sum_l2[k] <= LARGEST) & (peak[k] >= NOTHING)
                found[UNSURE, k] = ZERO if sure else ONE
        else:
            for k in range(LANES):
                s = sum_lx[k] / sum_l2[k]
                better = (sum_l2[k] > ZERO) & (sum_lx[k] * sum_lx[k] > best[k] * sum_l2[k])
                scale[k] = s if better else scale[k]
                best[k] = s * sum_lx[k] if better else best[k]
    for k in range(LANES):
        found[SCALE, k] = scale[k]
        found[PEAK, k] = peak[k]


@compiled
def _pack(
    row: NDArray[np.float32], found: NDArray[np.float32], block: int, out: NDArray[np.uint8]
) -> int:
    """Round the scales of a super-block and write its bytes; 1 where it is left to ggml."""
    lane = block * 16
    divisor = carray(stack(BLOCK), (BLOCK,))
    extreme = peak = ZERO
    for j in range(16):
        scale = found[SCALE, lane + j]
        if not (found[UNSURE, lane + j] == ZERO and abs(scale) <= LARGEST):
            return 1
        if abs(scale) > peak:
            peak = abs(scale)
            extreme = scale
    if peak < NOTHING:
        return 1
    factor = np.float32(-128) / extreme
    inverse = np.float32(ONE / factor)
    if abs(inverse) > LARGEST_HALF:
        return 1
    d_bits, d_value = half(inverse)
    out[208], out[209] = d_bits & 255, d_bits >> 8
    for j in range(16):
        s = min((factor * found[SCALE, lane + j] + ROUND) - ROUND, np.float32(127))
        out[192 + j] = int(s) & 255
        d = d_value * s
        if d == ZERO or not found[PEAK, lane + j] / abs(d) <= REACH:
            return 1
        for i in range(SUB):
            divisor[j * SUB + i] = d
    for i in range(BLOCK):
        q = (row[i] / divisor[i] + ROUND) - ROUND
        q = TOP if q > TOP else q
        row[i] = (BOTTOM if q < BOTTOM else q) + LEVELS
    low, two, four, six = np.int32(15), np.int32(2), np.int32(4), np.int32(6)
    for part in range(2):
        for i in range(32):
            a = np.int32(row[part * 128 + i])
            b = np.int32(row[part * 128 + 32 + i])
            c = np.int32(row[part * 128 + 64 + i])
            e = np.int32(row[part * 128 + 96 + i])
            out[part * 64 + i] = (a & low) | ((c & low) << four)
            out[part * 64 + 32 + i] = (b & low) | ((e & low) << four)
            high = (a >> four) | ((b >> four) << two) | ((c >> four) << four)
            out[128 + part * 32 + i] = high | ((e >> four) << six)
    return 0
