"""The compiled quantizers for Q4_0 and Q5_0: ggml's quantize_row_q4_0_ref, quantize_row_q5_0_ref,
and with importances its quantize_row_q4_0_impl and quantize_row_q5_0_impl.

Import this only where numba is installed. See lanes for how it works.
"""

# ruff: noqa: ARG001 - the functions of every type take what those of one need

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
    SCALE,
    ZERO,
    Bits,
    Bytes,
    Floats,
    compiled,
    quantizer,
    rounded,
    weigh_beside,
    write_half,
)
from convert.kernels.scales import scale_search
from convert.kernels.vectors import bits_of, flags, largest, load, part, store, whole

SUB = 32  # values a block
LANES = GROUP // SUB
SIGN = np.int32(-(2**31))


@compiled
def _weigh_by_row(
    lanes: Floats, weights: Floats, squares: Floats, columns: int, first: int
) -> None:
    """Small values count less, beside the mean square of their whole row."""
    for k in range(LANES):
        row = (first + k * SUB) // columns
        weigh_beside(lanes, weights, k, squares[row] if row < squares.size else ZERO)


@compiled
def _write_levels(level: Any, five: bool, out: Bytes, at: int) -> None:
    """A block's levels, from 0 on: the fifth bits, if any, and the others, two values a byte."""
    start = at + 2
    if five:
        high = flags((level & 16) != 0)
        for j in range(4):
            out[start + j] = np.uint8(high >> np.uint64(8 * j))
        start += 4
    store(out, start, (part(level, 0, 16) & 15) | (part(level, 16, 16) << 4))


@compiled
def _negative_first(row: Any, magnitude: np.float32) -> Any:
    """Whether minus the magnitude comes before it among the values."""
    above, below = flags(row == magnitude), flags(row == -magnitude)
    return (above & (~above + np.uint64(1))) > (below & (~below + np.uint64(1)))


def _plain(five: bool) -> Callable[..., Any]:
    """A compiled function that quantizes without importances, to levels of five bits, else four.

    It takes and gives what lanes.quantizer's does. Nothing is searched for, so that each block is
    done at once, its values side by side.
    """
    bottom = np.float32(-16 if five else -8)
    middle, top = ONE_HALF - bottom, np.int32(31 if five else 15)
    nbytes = 22 if five else 18

    @compiled
    def quantize(values: Floats, bits: Bits, out: Bytes, left: Bytes) -> np.uint32:
        flat = out.reshape(-1)
        peak = np.int32(0)
        for at in range(out.shape[0]):
            row = load(values, at * SUB, SUB) if values.size else load(bits, at * SUB, SUB)
            up, down = largest(bits_of(row)), largest(bits_of(row) ^ SIGN)
            here = max(up, down)  # the largest magnitude, as bits
            peak = max(peak, here)
            extreme = np.int32(here).view(np.float32)
            if down > up or (down == up and _negative_first(row, extreme)):
                extreme = -extreme
            scale = extreme / bottom
            factor = ONE / scale
            sure = NOTHING <= abs(extreme) <= LARGEST and abs(scale) <= LARGEST_HALF
            left[at] = 0 if sure else 1
            if sure:
                write_half(scale, flat, at * nbytes)
                level = min(whole(row * factor + middle), top)
                _write_levels(level, five, flat, at * nbytes)
        return np.uint32(peak)

    return quantize


def _by_importance(five: bool) -> Callable[..., Any]:
    """The same with importances."""
    bottom, top = np.float32(-16 if five else -8), np.float32(15 if five else 7)

    @compiled
    def pack(row: Floats, fits: Floats, lane: int, weighted: bool, out: Bytes) -> int:
        scale, factor = fits[SCALE, lane], fits[FACTOR, lane]
        if not abs(scale) <= LARGEST_HALF:
            return 1
        write_half(scale, out, 0)
        q = max(bottom, min(top, rounded(load(row, 0, SUB) * factor)))
        level = whole(q - bottom)
        _write_levels(level, five, out, 0)
        return 0

    return quantizer(SUB, SUB, _weigh_by_row, scale_search(SUB, bottom, top), pack, by_row=True)


quantize_q4, quantize_q4_by_importance = _plain(five=False), _by_importance(five=False)
quantize_q5, quantize_q5_by_importance = _plain(five=True), _by_importance(five=True)
