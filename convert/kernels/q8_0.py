"""The compiled quantizer for Q8_0 by a search for each block's scale, as searched has it in NumPy.

Import this only where numba is installed. See lanes for how it works.
"""

# ruff: noqa: ARG001 - the functions of every type take what those of one need

from typing import Any

from convert.kernels.lanes import (
    FACTOR,
    LARGEST_HALF,
    ONE,
    ONE_HALF,
    SCALE,
    WIDE,
    ZERO,
    Bytes,
    Floats,
    by_lanes,
    compiled,
    keep,
    quantizer,
    rounded,
    write_half,
)
from convert.kernels.scales import weigh_as_given
from convert.kernels.searched import LEVELS, SMALLEST_HALF, SPLIT, SUB, TOP
from convert.kernels.vectors import filled, load, select, store, whole

TRIALS = len(LEVELS)


@compiled
def _levels(values: Any, factor: Any) -> Any:
    return max(-TOP, min(TOP, rounded(values * factor)))


@compiled
def _half(scale: Any) -> Any:
    wide = scale * SPLIT
    subnormal = (scale + ONE_HALF) - ONE_HALF
    return select(scale >= SMALLEST_HALF, wide - (wide - scale), subnormal)


@compiled
def _search(x: Floats, weight: Floats, weighted: bool, fits: Floats, lane: int) -> None:
    none = filled(ZERO, WIDE)
    peak = none
    for i in range(SUB):
        peak = max(peak, abs(load(x, i * WIDE, WIDE)))
    least = best = chosen = none
    for trial in range(TRIALS):
        scale = _half(min(peak / LEVELS[trial], LARGEST_HALF))
        factor = select(scale > ZERO, ONE / scale, none)
        total = none
        for i in range(SUB):
            v = load(x, i * WIDE, WIDE)
            error = v - _levels(v, factor) * scale
            square = error * load(weight, i * WIDE, WIDE) if weighted else error
            total += error * square
        better = total < least if trial else total == total
        least = select(better, total, least)
        best = select(better, scale, best)
        chosen = select(better, factor, chosen)
    keep(fits, SCALE, lane, best)
    keep(fits, FACTOR, lane, chosen)


@compiled
def _pack(row: Floats, fits: Floats, lane: int, weighted: bool, out: Bytes) -> int:
    write_half(fits[SCALE, lane], out, 0)
    store(out, 2, whole(_levels(load(row, 0, SUB), fits[FACTOR, lane])))
    return 0


quantize = quantizer(SUB, SUB, weigh_as_given, by_lanes(_search, SUB), _pack)
