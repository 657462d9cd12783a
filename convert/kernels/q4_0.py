"""The compiled quantizer for Q4_0 and Q5_0: ggml's quantize_row_q4_0_ref and quantize_row_q5_0_ref,
and with importances its quantize_row_q4_0_impl and quantize_row_q5_0_impl.

Import this only where numba is installed. See lanes for how it works.
"""

import numpy as np
from numpy.typing import NDArray

from convert.kernels.lanes import (
    GROUP,
    LARGEST,
    LARGEST_HALF,
    NOTHING,
    ONE,
    ROUND,
    ZERO,
    carray,
    compiled,
    half,
    load,
    load_importances,
    stack,
)
from convert.kernels.scales import FACTOR, PEAK, SCALE, UNSURE, scale_search, weigh

SUB = 32  # values a block
LANES = GROUP // SUB
ONE_HALF = np.float32(0.5)

search = scale_search(SUB)


@compiled
def quantize_q4_0_q5_0(
    values: NDArray[np.float32],
    bits: NDArray[np.uint16],
    importances: NDArray[np.float32],
    out: NDArray[np.uint8],
    left: NDArray[np.uint8],
    five: bool,
) -> np.uint32:
    """Quantize values to Q4_0 or Q5_0 blocks; arguments and result are quantize_q4_q5's."""
    weighted = importances.size > 0
    bottom = np.float32(-16) if five else np.float32(-8)
    important = stack(GROUP)
    space = stack(GROUP)
    flat = carray(space, (GROUP,))
    lanes, weights = carray(space, (LANES, SUB)), carray(important, (LANES, SUB))
    fits = carray(stack(GROUP), (8, LANES))
    squares = carray(stack(GROUP), (LANES,))
    blocks = out.shape[0]
    largest = np.uint32(0)
    for start in range(0, blocks, LANES):
        count = min(LANES, blocks - start)
        first, last = start * SUB, (start + count) * SUB
        largest = max(largest, load(values[first:last], bits[first:last], flat))
        if weighted:
            load_importances(importances, first, carray(important, (GROUP,)))
            for block in range(count):
                row = first + block * SUB - (first + block * SUB) % importances.size
                fresh = block == 0 or row == first + block * SUB
                if fresh:
                    end = row + importances.size
                    squares[block] = _row_square(values[row:end], bits[row:end])
                else:
                    squares[block] = squares[block - 1]
            weigh(lanes, squares, weights)
            search(lanes, weights, True, fits, bottom, -bottom - ONE)
        for block in range(count):
            at = start + block
            if weighted:
                left[at] = _pack_found(lanes[block], fits, block, out[at], bottom, five)
            else:
                left[at] = _pack_plain(lanes[block], out[at], bottom, five)
    return largest


@compiled
def _row_square(values: NDArray[np.float32], bits: NDArray[np.uint16]) -> np.float32:
    """The mean square of a row's values."""
    total = ZERO
    for i in range(values.size):
        total += values[i] * values[i]
    for i in range(bits.size):
        v = np.uint32(np.uint32(bits[i]) << np.uint32(16)).view(np.float32)
        total += v * v
    return total / np.float32(values.size + bits.size)


@compiled
def _pack_found(
    row: NDArray[np.float32],
    fits: NDArray[np.float32],
    lane: int,
    out: NDArray[np.uint8],
    bottom: np.float32,
    five: bool,
) -> int:
    """Write a block by the scale that was found; 1 where it is left to ggml."""
    scale, factor = fits[SCALE, lane], fits[FACTOR, lane]
    sure = fits[UNSURE, lane] == ZERO and fits[PEAK, lane] >= NOTHING
    if not (sure and abs(scale) <= LARGEST_HALF):
        return 1
    for i in range(SUB):
        q = (factor * row[i] + ROUND) - ROUND
        row[i] = max(min(q, -bottom - ONE), bottom) - bottom
    _write(row, scale, out, five)
    return 0


@compiled
def _pack_plain(
    row: NDArray[np.float32], out: NDArray[np.uint8], bottom: np.float32, five: bool
) -> int:
    """Write a block whose scale makes the largest value the lowest level."""
    bits = np.uint32(0)
    for i in range(SUB):  # as integers, whose largest is found in any order
        bits = max(bits, np.uint32(np.float32(row[i]).view(np.uint32) & np.uint32(0x7FFFFFFF)))
    peak = np.uint32(bits).view(np.float32)
    extreme = peak
    for i in range(SUB):
        if abs(row[i]) == peak:
            extreme = row[i]
            break
    scale = extreme / bottom
    factor = ONE / scale
    if not (peak >= NOTHING and peak <= LARGEST and abs(scale) <= LARGEST_HALF):
        return 1
    for i in range(SUB):
        q = np.float32(np.int32(row[i] * factor + (ONE_HALF - bottom)))
        row[i] = min(q, -bottom - bottom - ONE)
    _write(row, scale, out, five)
    return 0


@compiled
def _write(row: NDArray[np.float32], scale: np.float32, out: NDArray[np.uint8], five: bool) -> None:
    """A block's bytes: the scale, the fifth bits where there are five, the others two a byte."""
    d_bits, _ = half(np.float32(scale))
    out[0], out[1] = d_bits & 255, d_bits >> 8
    start = 2
    if five:
        for j in range(4):
            high = np.int32(0)
            for i in range(8):
                high |= (np.int32(row[8 * j + i]) >> np.int32(4)) << np.int32(i)
            out[2 + j] = high
        start = 6
    for i in range(16):
        low = np.int32(row[i]) & np.int32(15)
        out[start + i] = low | ((np.int32(row[16 + i]) & np.int32(15)) << np.int32(4))
