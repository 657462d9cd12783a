"""Types of one scale a sub-block, levels on both sides of zero: the search for it, and its levels.

Import this only where numba is installed. See lanes for how it works.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from convert.kernels.lanes import (
    FACTOR,
    LARGEST,
    NOTHING,
    PEAK,
    REACH,
    SCALE,
    TENTH,
    UNKNOWN,
    WIDE,
    ZERO,
    Floats,
    by_lanes,
    carray,
    compiled,
    keep,
    rounded,
)
from convert.kernels.vectors import filled, load, select, stack, store


@compiled
def weigh_as_given(
    _lanes: Floats, _weights: Floats, _squares: Floats, _columns: int, _first: int
) -> None:
    """Importances are the weights."""


def scale_search(
    sub: int, bottom: np.float32, top: np.float32, count: int = 0
) -> Callable[..., Any]:
    """A compiled function for lanes of so many values that have a scale alone: make_qx_quants.

    Levels go from bottom (negative) to top. Errors are weighed by weights where weighted says so,
    else by the values' squares. There are count lanes, if not a group's.
    """
    wide = min(WIDE, count or WIDE)
    size = sub * wide

    @compiled
    def search(x: Floats, weight: Floats, weighted: bool, fits: Floats, lane: int) -> None:
        product = carray(stack(size), (sub, wide))
        none = filled(ZERO, wide)
        extreme = none
        for i in range(sub):
            v = load(x, i * wide, wide)
            w = load(weight, i * wide, wide) if weighted else v * v
            extreme = select(abs(v) > abs(extreme), v, extreme)
            store(weight, i * wide, w)
            store(product, i * wide, w * v)
        peak = abs(extreme)
        scale = best = chosen = sure = none
        for step in range(-10, 10):  # ggml's first trial, at -10 here, is the one for step 0
            if step == 0:
                continue
            shift = ZERO if step == -10 else TENTH * np.float32(step)
            factor = (bottom - shift) / extreme
            sum_lx = sum_l2 = none
            for i in range(sub):
                q = max(bottom, min(top, rounded(factor * load(x, i * wide, wide))))
                sum_lx += load(product, i * wide, wide) * q
                sum_l2 += load(weight, i * wide, wide) * q * q
            s = sum_lx / sum_l2
            if step == -10:
                better = sum_l2 != ZERO
                sure = select(sum_l2 <= LARGEST, peak, none)
                chosen = factor
            else:
                better = (sum_l2 > ZERO) & (sum_lx * sum_lx > best * sum_l2)
            scale = select(better, s, scale)
            best = select(better, s * sum_lx, best)
            chosen = select(better, factor, chosen)
        sure = (sure >= NOTHING) & (sure <= LARGEST)
        keep(fits, SCALE, lane, select(sure, scale, filled(UNKNOWN, wide)))
        keep(fits, PEAK, lane, peak)
        keep(fits, FACTOR, lane, chosen)

    return by_lanes(search, sub, count, wide)


@compiled
def extreme_scale(fits: Floats, lane: int, count: int) -> np.float32:
    """The one of so many lanes' scales that is farthest from 0; 0 where one is ggml's to find."""
    extreme = peak = ZERO
    for j in range(count):
        scale = fits[SCALE, lane + j]
        if not abs(scale) <= LARGEST:
            return ZERO
        if abs(scale) > peak:
            peak = abs(scale)
            extreme = scale
    return extreme if peak >= NOTHING else ZERO


@compiled
def signed_levels(
    row: Floats, fits: Floats, lane: int, bottom: np.float32, top: np.float32
) -> bool:
    """Replace a super-block's values by their levels above bottom; False where it is left to ggml.

    Its sub-blocks have 16 values.
    """
    for j in range(16):
        d = fits[SCALE, lane + j]
        if d == ZERO or not fits[PEAK, lane + j] / abs(d) <= REACH:
            return False
        q = max(bottom, min(top, rounded(load(row, j * 16, 16) / d)))
        store(row, j * 16, q - bottom)
    return True
