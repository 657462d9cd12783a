"""The compiled quantizer for Q2_K: ggml's quantize_row_q2_K_ref and quantize_row_q2_K_impl.

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
    pack_twos,
    positive_levels,
)

SUB = 16  # values a sub-block
LANES = GROUP // SUB
TOP = np.float32(3)
LARGEST_SCALE = np.float32(15)

search = minimum_search(SUB, absolute=True)
search_by_importance = minimum_search(SUB)


@compiled
def quantize_q2(
    values: NDArray[np.float32],
    bits: NDArray[np.uint16],
    importances: NDArray[np.float32],
    out: NDArray[np.uint8],
    left: NDArray[np.uint8],
) -> np.uint32:
    """Quantize values to Q2_K blocks; the arguments and the result are quantize_q4_q5's."""
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
            block_squares(lanes, squares, np.float32(1))
            step, first_step = np.float32(0.05), np.float32(-0.9)
            search_by_importance(lanes, weights, squares, True, fits, TOP, first_step, step, 37)
        else:
            step, first_step = np.float32(0.1), np.float32(-0.5)
            search(lanes, weights, squares, False, fits, TOP, first_step, step, 16)
        for block in range(count):
            at = start + block
            left[at] = 1
            if _scales(fits, block, out[at], weighted):
                left[at] = _pack(row[block], fits, block, out[at])
    return largest


@compiled
def _scales(fits: NDArray[np.float32], block: int, out: NDArray[np.uint8], weighted: bool) -> bool:
    """Replace a super-block's scales by their levels; False where it is left to ggml."""
    lane = block * 16
    scales, minimums = fits[SCALE, lane : lane + 16], fits[MINIMUM, lane : lane + 16]
    levels, shifts = carray(stack(16), (16,)), carray(stack(16), (16,))
    largest_scale = largest_min = ZERO
    for j in range(16):
        sure = ZERO <= scales[j] <= LARGEST and ZERO <= minimums[j] <= LARGEST
        if fits[UNSURE, lane + j] != ZERO or not sure:
            return False
        largest_scale = max(largest_scale, scales[j])
        largest_min = max(largest_min, minimums[j])
    if weighted:
        weights = fits[WEIGHTS, lane : lane + 16]
        d = positive_levels(scales, weights, levels, LARGEST_SCALE)
        m = positive_levels(minimums, weights, shifts, LARGEST_SCALE)
    else:
        d, m = largest_scale / LARGEST_SCALE, largest_min / LARGEST_SCALE
        inverse = LARGEST_SCALE / largest_scale
        inverse_min = LARGEST_SCALE / largest_min if largest_min > ZERO else ZERO
        for j in range(16):
            levels[j] = (inverse * scales[j] + ROUND) - ROUND
            shifts[j] = (inverse_min * minimums[j] + ROUND) - ROUND
    if not (ZERO < d <= LARGEST_HALF and ZERO <= m <= LARGEST_HALF):
        return False
    d_bits, d_value = half(np.float32(d))
    m_bits, m_value = half(np.float32(m))
    out[80], out[81] = d_bits & 255, d_bits >> 8
    out[82], out[83] = m_bits & 255, m_bits >> 8
    for j in range(16):
        if not (ZERO <= levels[j] <= LARGEST_SCALE and ZERO <= shifts[j] <= LARGEST_SCALE):
            return False
        out[j] = int(levels[j]) | (int(shifts[j]) << 4)
        fits[SCALE, lane + j] = d_value * levels[j]
        fits[MINIMUM, lane + j] = m_value * shifts[j]
    return True


@compiled
def _pack(
    row: NDArray[np.float32], fits: NDArray[np.float32], block: int, out: NDArray[np.uint8]
) -> int:
    """Write a super-block's levels; 1 where it is left to ggml."""
    lane = block * 16
    for j in range(16):
        d, shift = fits[SCALE, lane + j], fits[MINIMUM, lane + j]
        if not (
            d > ZERO
            and abs((fits[LOW, lane + j] + shift) / d) <= REACH
            and abs((fits[HIGH, lane + j] + shift) / d) <= REACH
        ):
            return 1
        for i in range(SUB):
            q = ((row[j * SUB + i] + shift) / d + ROUND) - ROUND
            q = TOP if q > TOP else q
            row[j * SUB + i] = ZERO if q < ZERO else q
    pack_twos(row, out[16:80])
    return 0
