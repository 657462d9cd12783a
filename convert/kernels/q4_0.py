"""The compiled quantizers for Q4_0 and Q5_0: ggml's quantize_row_q4_0_ref, quantize_row_q5_0_ref,
and with importances its quantize_row_q4_0_impl and quantize_row_q5_0_impl.

Import this only where numba is installed. See lanes for how it works.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from convert.kernels.lanes import (
    FACTOR,
    GROUP,
    LARGEST,
    LARGEST_HALF,
    NOTHING,
    ONE,
    ONE_HALF,
    ROUND,
    SCALE,
    UNSURE,
    ZERO,
    Bits,
    Bytes,
    Floats,
    carray,
    compiled,
    inlined,
    quantizer,
    stack,
    weigh_beside,
    write_half,
)
from convert.kernels.scales import scale_search

SUB = 32  # values a block
LANES = GROUP // SUB


@compiled
def _weigh_by_row(
    lanes: Floats, weights: Floats, values: Floats, bits: Bits, columns: int, first: int
) -> None:
    """Small values count less, beside the mean square of their whole row."""
    squares = carray(stack(GROUP), (LANES,))
    for k in range(min(LANES, (values.size + bits.size - first) // SUB)):
        at = first + k * SUB
        row = at - at % columns
        if k == 0 or row == at:
            squares[k] = _row_square(values[row : row + columns], bits[row : row + columns])
        else:
            squares[k] = squares[k - 1]
    weigh_beside(lanes, squares, weights)


@compiled
def _row_square(values: Floats, bits: Bits) -> np.float32:
    """The mean square of a row's values."""
    total = ZERO
    for i in range(values.size):
        total += values[i] * values[i]
    for i in range(bits.size):
        v = np.uint32(np.uint32(bits[i]) << np.uint32(16)).view(np.float32)
        total += v * v
    return total / np.float32(values.size + bits.size)


@inlined
def _extreme(row: Floats) -> np.float32:
    """The first of the values whose magnitude is the largest."""
    bits = np.uint32(0)
    for i in range(SUB):  # as integers, whose largest is found in any order
        bits = max(bits, np.uint32(np.float32(row[i]).view(np.uint32) & np.uint32(0x7FFFFFFF)))
    peak = np.uint32(bits).view(np.float32)
    extreme = peak
    for i in range(SUB):
        if abs(row[i]) == peak:
            extreme = row[i]
            break
    return extreme


def _kernel(five: bool) -> Callable[..., Any]:
    """For levels of five bits, else four."""
    bottom = np.float32(-16 if five else -8)
    search_by_importance = scale_search(SUB, bottom, -bottom - ONE)

    @compiled
    def search(lanes: Floats, weights: Floats, weighted: bool, fits: Floats) -> None:
        if weighted:
            search_by_importance(lanes, weights, True, fits)

    @inlined
    def pack(row: Floats, fits: Floats, lane: int, weighted: bool, out: Bytes) -> int:
        if weighted:
            scale, factor = fits[SCALE, lane], fits[FACTOR, lane]
            if not (fits[UNSURE, lane] == ZERO and abs(scale) <= LARGEST_HALF):
                return 1
            for i in range(SUB):
                q = (factor * row[i] + ROUND) - ROUND
                row[i] = max(min(q, -bottom - ONE), bottom) - bottom
        else:
            extreme = _extreme(row)
            scale = extreme / bottom
            factor = ONE / scale
            if not (NOTHING <= abs(extreme) <= LARGEST and abs(scale) <= LARGEST_HALF):
                return 1
            for i in range(SUB):
                q = np.float32(np.int32(row[i] * factor + (ONE_HALF - bottom)))
                row[i] = min(q, -bottom - bottom - ONE)
        write_half(scale, out, 0)
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
        return 0

    return quantizer(SUB, SUB, _weigh_by_row, search, pack)


quantize_q4 = _kernel(five=False)
quantize_q5 = _kernel(five=True)
