"""The compiled quantizer for Q6_K: ggml's quantize_row_q6_K_ref and quantize_row_q6_K_impl.

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
from convert.kernels.scales import PEAK, SCALE, UNSURE, scale_search

SUB = 16  # values a sub-block
LANES = GROUP // SUB
LEVELS = np.float32(32)
TOP = np.float32(31)
BOTTOM = np.float32(-32)

search = scale_search(SUB)


@compiled
def quantize_q6(
    values: NDArray[np.float32],
    bits: NDArray[np.uint16],
    importances: NDArray[np.float32],
    out: NDArray[np.uint8],
    left: NDArray[np.uint8],
) -> np.uint32:
    """Quantize values (float32), or BF16 bits where values is empty, to Q6_K blocks.

    importances are those of a row's columns, or empty. out has shape (blocks, bytes a block). left,
    of shape (blocks,), gets 1 for each super-block that is left to ggml: one with a value that is
    not finite, a level out of REACH, or a sub-block whose scale rounds to 0. The result is the
    largest magnitude seen, as the bits of a float32.
    """
    weighted = importances.size > 0
    important = stack(GROUP)
    space = stack(GROUP)
    flat, row = carray(space, (GROUP,)), carray(space, (BLOCKS, BLOCK))
    fits = carray(stack(GROUP), (8, LANES))
    blocks = out.shape[0]
    largest = np.uint32(0)
    for start in range(0, blocks, BLOCKS):
        count = min(BLOCKS, blocks - start)
        first, last = start * BLOCK, (start + count) * BLOCK
        largest = max(largest, load(values[first:last], bits[first:last], flat))
        lanes, weights = carray(space, (LANES, SUB)), carray(important, (LANES, SUB))
        if weighted:
            load_importances(importances, first, carray(important, (GROUP,)))
        search(lanes, weights, weighted, fits, BOTTOM, TOP)
        for block in range(count):
            left[start + block] = _pack(row[block], fits, block, out[start + block])
    return largest


@compiled
def _pack(
    row: NDArray[np.float32], fits: NDArray[np.float32], block: int, out: NDArray[np.uint8]
) -> int:
    """Round the scales of a super-block and write its bytes; 1 where it is left to ggml."""
    lane = block * 16
    divisor = carray(stack(BLOCK), (BLOCK,))
    extreme = peak = ZERO
    for j in range(16):
        scale = fits[SCALE, lane + j]
        if not (fits[UNSURE, lane + j] == ZERO and abs(scale) <= LARGEST):
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
        s = min((factor * fits[SCALE, lane + j] + ROUND) - ROUND, np.float32(127))
        out[192 + j] = int(s) & 255
        d = d_value * s
        if d == ZERO or not fits[PEAK, lane + j] / abs(d) <= REACH:
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
