"""The compiled quantizer for Q4_K and Q5_K: ggml's quantize_row_q4_K_ref and quantize_row_q5_K_ref,
and with importances its quantize_row_q4_K_impl and quantize_row_q5_K_impl.

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
    HIGH,
    LOW,
    MINIMUM,
    SCALE,
    UNSURE,
    WEIGHTS,
    block_squares,
    minimum_search,
    positive_levels,
)

SUB = 32  # values a sub-block
LANES = GROUP // SUB
LARGEST_SCALE = np.float32(63)

search = minimum_search(SUB)


@compiled
def quantize_q4_q5(
    values: NDArray[np.float32],
    bits: NDArray[np.uint16],
    importances: NDArray[np.float32],
    out: NDArray[np.uint8],
    left: NDArray[np.uint8],
    five: bool,
) -> np.uint32:
    """Quantize values (float32), or BF16 bits where values is empty, to Q4_K or Q5_K blocks.

    importances are those of a row's columns, or empty. out has shape (blocks, bytes a block). left,
    of shape (blocks,), gets 1 for each super-block that is left to ggml: one with a value that is
    not finite, a level out of REACH, or a sub-block whose scale rounds to 0. The result is the
    largest magnitude seen, as the bits of a float32.
    """
    top = np.float32(31) if five else np.float32(15)
    weighted = importances.size > 0
    first_step = np.float32(-0.5) if five else np.float32(-1)
    step = np.float32(0.1)
    steps = 16 if five else 21
    if weighted:
        first_step, step, steps = np.float32(-0.9), np.float32(0.05), 37
    important = stack(GROUP)
    space = stack(GROUP)
    flat, row = carray(space, (GROUP,)), carray(space, (BLOCKS, BLOCK))
    fits = carray(stack(GROUP), (8, LANES))
    squares = carray(stack(GROUP), (LANES,))
    blocks = out.shape[0]
    largest = np.uint32(0)
    for start in range(0, blocks, BLOCKS):
        count = min(BLOCKS, blocks - start)
        first, last = start * BLOCK, (start + count) * BLOCK
        largest = max(largest, load(values[first:last], bits[first:last], flat))
        lanes, weights = carray(space, (LANES, SUB)), carray(important, (LANES, SUB))
        if weighted:
            load_importances(importances, first, carray(important, (GROUP,)))
            block_squares(lanes, squares, np.float32(2))
        search(lanes, weights, squares, weighted, fits, top, first_step, step, steps)
        for block in range(count):
            at = start + block
            left[at] = 1
            if _scales(fits, block, out[at], weighted):
                left[at] = _pack(row[block], fits, block, out[at], top, five)
    return largest


@compiled
def _scales(fits: NDArray[np.float32], block: int, out: NDArray[np.uint8], weighted: bool) -> bool:
    """Replace a super-block's scales by their levels; False where it is left to ggml."""
    lane = block * 8
    scales, minimums = fits[SCALE, lane : lane + 8], fits[MINIMUM, lane : lane + 8]
    levels, shifts = carray(stack(8), (8,)), carray(stack(8), (8,))
    largest_scale = largest_min = ZERO
    for j in range(8):
        if fits[UNSURE, lane + j] != ZERO:
            return False
        largest_scale = max(largest_scale, scales[j])
        largest_min = max(largest_min, minimums[j])
    if weighted:
        for j in range(8):
            if not (ZERO <= scales[j] <= LARGEST and ZERO <= minimums[j] <= LARGEST):
                return False
        weights = fits[WEIGHTS, lane : lane + 8]
        d = positive_levels(scales, weights, levels, LARGEST_SCALE)
        m = positive_levels(minimums, weights, shifts, LARGEST_SCALE)
    else:
        d, m = largest_scale / LARGEST_SCALE, largest_min / LARGEST_SCALE
        inverse = LARGEST_SCALE / largest_scale
        inverse_min = LARGEST_SCALE / largest_min if largest_min > ZERO else ZERO
        for j in range(8):
            scale, minimum = inverse * scales[j], inverse_min * minimums[j]
            if not (abs(scale) <= REACH and abs(minimum) <= REACH):
                return False
            # A negative one wraps around as ggml's bytes do.
            levels[j] = min(int((scale + ROUND) - ROUND) & 255, 63)
            shifts[j] = min(int((minimum + ROUND) - ROUND) & 255, 63)
    if not (ZERO < d <= LARGEST_HALF and ZERO <= m <= LARGEST_HALF):
        return False
    d_bits, d_value = half(np.float32(d))
    m_bits, m_value = half(np.float32(m))
    out[0], out[1] = d_bits & 255, d_bits >> 8
    out[2], out[3] = m_bits & 255, m_bits >> 8
    for j in range(8):
        fits[SCALE, lane + j] = levels[j]
        fits[MINIMUM, lane + j] = shifts[j]
    fits[WEIGHTS, lane], fits[WEIGHTS, lane + 1] = d_value, m_value
    return True


@compiled
def _pack(
    row: NDArray[np.float32],
    fits: NDArray[np.float32],
    block: int,
    out: NDArray[np.uint8],
    top: np.float32,
    five: bool,
) -> int:
    """Write a super-block's scales as bytes, and its levels; 1 where it is left to ggml."""
    lane = block * 8
    d_value, m_value = fits[WEIGHTS, lane], fits[WEIGHTS, lane + 1]
    for j in range(8):
        s, m = int(fits[SCALE, lane + j]), int(fits[MINIMUM, lane + j])
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
            and abs((fits[LOW, lane + j] + shift) / d) <= REACH
            and abs((fits[HIGH, lane + j] + shift) / d) <= REACH
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
