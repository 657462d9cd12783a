"""Types of a scale and a minimum a sub-block: the search for both, and the levels above it.

Import this only where numba is installed. See lanes for how it works.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from convert.kernels.lanes import (
    FACTOR,
    HIGH,
    LARGEST,
    LARGEST_HALF,
    LOW,
    MINIMUM,
    NOTHING,
    ONE,
    PEAK,
    REACH,
    SCALE,
    TENTH,
    UNKNOWN,
    WEIGHTS,
    WIDE,
    ZERO,
    Bytes,
    Floats,
    by_lanes,
    carray,
    compiled,
    keep,
    rounded,
    write_half,
)
from convert.kernels.vectors import filled, load, roots, select, stack, store

SCALE_LEVEL, MINIMUM_LEVEL = PEAK, FACTOR  # rows of fits that these types have no other use for


def minimum_search(
    sub: int, top: np.float32, first: float, steps: int, *, absolute: bool = False
) -> Callable[..., Any]:
    """A compiled function for lanes of so many values: ggml's make_qkx2_quants, and with weights
    its make_qkx3_quants.

    Levels go from 0 to top. Without weights, scales are tried for so many steps of a tenth from the
    first on, and absolute takes errors for their squares; with them all types have the same steps.
    """
    start = np.float32(first)
    alone = _trials(sub, top, absolute=absolute)
    by_importance = _trials(sub, top, absolute=False) if absolute else alone  # compiled once

    @compiled
    def search(x: Floats, weight: Floats, weighted: bool, fits: Floats, lane: int) -> None:
        if weighted:
            first, step = np.float32(-0.9), np.float32(0.05)
            by_importance(x, weight, True, fits, lane, first, step, 37)
        else:
            alone(x, weight, False, fits, lane, start, TENTH, steps)

    return by_lanes(search, sub)


def _trials(sub: int, top: np.float32, *, absolute: bool) -> Callable[..., Any]:
    """The search of some lanes, by so many steps from the first on."""
    size = sub * WIDE

    @compiled
    def search(
        x: Floats,
        weight: Floats,
        weighted: bool,
        fits: Floats,
        lane: int,
        first: np.float32,
        step: np.float32,
        steps: int,
    ) -> None:
        level = carray(stack(size), (sub, WIDE))
        none = filled(ZERO, WIDE)
        low = high = load(x, 0, WIDE)
        squares = sum_w = sum_x = best = none
        for i in range(sub):
            v = load(x, i * WIDE, WIDE)
            low, high = min(v, low), max(v, high)
            squares += v * v
        mean = roots(squares / np.float32(sub))
        for i in range(sub):
            v = load(x, i * WIDE, WIDE)
            own = abs(v) if absolute else mean + abs(v)
            w = load(weight, i * WIDE, WIDE) if weighted else own
            sum_w += w
            sum_x += w * v
            store(weight, i * WIDE, w)
        minimum = select(low > ZERO, none, low)
        factor = top / (high - minimum)
        scale = ONE / factor
        sure = squares <= LARGEST
        sure &= abs(factor * (low - minimum)) <= REACH
        sure &= abs(factor * (high - minimum)) <= REACH
        for i in range(sub):
            v = load(x, i * WIDE, WIDE)
            q = max(ZERO, min(top, rounded(factor * (v - minimum))))
            d = scale * q + minimum - v
            best += load(weight, i * WIDE, WIDE) * (abs(d) if absolute else d * d)
        for trials in range(steps):
            factor = (first + step * np.float32(trials) + top) / (high - minimum)
            sure &= abs(factor * (low - minimum)) <= REACH
            sure &= abs(factor * (high - minimum)) <= REACH
            sum_l = sum_l2 = sum_xl = error = none
            for i in range(sub):
                v = load(x, i * WIDE, WIDE)
                q = max(ZERO, min(top, rounded(factor * (v - minimum))))
                store(level, i * WIDE, q)
                wq = load(weight, i * WIDE, WIDE) * q
                sum_l += wq
                sum_l2 += wq * q
                sum_xl += wq * v
            determinant = sum_w * sum_l2 - sum_l * sum_l
            trial_min = (sum_l2 * sum_x - sum_l * sum_xl) / determinant
            trial = (sum_w * sum_xl - sum_x * sum_l) / determinant
            trial = select(trial_min > ZERO, sum_xl / sum_l2, trial)
            trial_min = select(trial_min > ZERO, none, trial_min)
            for i in range(sub):
                d = trial * load(level, i * WIDE, WIDE) + trial_min - load(x, i * WIDE, WIDE)
                error += load(weight, i * WIDE, WIDE) * (abs(d) if absolute else d * d)
            better = (determinant > ZERO) & (error < best)
            best = select(better, error, best)
            scale = select(better, trial, scale)
            minimum = select(better, trial_min, minimum)
        keep(fits, SCALE, lane, select(sure, scale, filled(UNKNOWN, WIDE)))
        keep(fits, MINIMUM, lane, minimum * -ONE)
        keep(fits, LOW, lane, low)
        keep(fits, HIGH, lane, high)
        keep(fits, WEIGHTS, lane, sum_w)

    return search


@compiled
def positive_levels(values: Floats, weights: Floats, levels: Floats, top: np.float32) -> np.float32:
    """ggml's make_qp_quants: levels from 0 to top for values, none negative, and their scale.

    -1 where a level is out of REACH and so ggml's to find.
    """
    count = values.size
    largest = ZERO
    for i in range(count):
        largest = max(largest, values[i])
    if largest < NOTHING:
        levels[:] = ZERO
        return ZERO
    factor = top / largest
    best = ZERO
    scale = ONE / factor
    for i in range(count):
        d = values[i] - scale * rounded(factor * values[i])
        best += weights[i] * d * d
    for step in range(-4, 5):
        if step == 0:
            continue
        trial = (TENTH * np.float32(step) + top) / largest
        scale = ONE / trial
        error = ZERO
        for i in range(count):
            q = min(rounded(trial * values[i]), top)
            d = values[i] - scale * q
            error += weights[i] * d * d
        if error < best:
            best = error
            factor = trial
    sum_x = sum_l2 = ZERO
    for i in range(count):
        q = min(rounded(factor * values[i]), top)
        levels[i] = q
        sum_x += weights[i] * values[i] * q
        sum_l2 += weights[i] * q * q
    for _ in range(5):
        changed = False
        for i in range(count):
            w, v, q = weights[i], values[i], levels[i]
            part_x = sum_x - w * v * q
            part_l2 = sum_l2 - w * q * q
            if part_x > ZERO and part_l2 > ZERO:
                ideal = v * part_l2 / part_x
                if not ideal <= REACH:
                    return -ONE
                better = min(rounded(ideal), top)
                if better != q:
                    part_x += w * v * better
                    part_l2 += w * better * better
                    if part_x * part_x * sum_l2 > sum_x * sum_x * part_l2:
                        levels[i] = better
                        sum_x = part_x
                        sum_l2 = part_l2
                        changed = True
        if not changed:
            break
    return sum_x / sum_l2 if sum_l2 > ZERO else ZERO


def minimum_levels(sub: int, count: int, largest: np.float32) -> Callable[..., Any]:
    """A compiled function that writes two halves, and replaces a block's values by their levels.

    A block has so many sub-blocks; the halves are what the sub-blocks' scales and minimums, as
    levels up to the largest, are multiplied with. Those levels go to SCALE_LEVEL and MINIMUM_LEVEL.
    False where the block is left to ggml.
    """

    @compiled
    def write(
        row: Floats, fits: Floats, lane: int, weighted: bool, top: np.float32, out: Bytes, at: int
    ) -> bool:
        scales, minimums = fits[SCALE, lane : lane + count], fits[MINIMUM, lane : lane + count]
        levels = fits[SCALE_LEVEL, lane : lane + count]
        shifts = fits[MINIMUM_LEVEL, lane : lane + count]
        largest_scale = largest_min = ZERO
        for j in range(count):
            if not (ZERO <= scales[j] <= LARGEST and ZERO <= minimums[j] <= LARGEST):
                return False
            largest_scale = max(largest_scale, scales[j])
            largest_min = max(largest_min, minimums[j])
        if weighted:
            weights = fits[WEIGHTS, lane : lane + count]
            d = positive_levels(scales, weights, levels, largest)
            m = positive_levels(minimums, weights, shifts, largest)
        else:
            d, m = largest_scale / largest, largest_min / largest
            inverse = largest / largest_scale
            inverse_min = largest / largest_min if largest_min > ZERO else ZERO
            for j in range(count):
                levels[j] = rounded(inverse * scales[j])
                shifts[j] = rounded(inverse_min * minimums[j])
        if not (ZERO < d <= LARGEST_HALF and ZERO <= m <= LARGEST_HALF):
            return False
        unit, unit_min = write_half(d, out, at), write_half(m, out, at + 2)
        for j in range(count):
            if not (ZERO <= levels[j] <= largest and ZERO <= shifts[j] <= largest):
                return False
            d = unit * levels[j]
            shift = unit_min * shifts[j]
            if not (
                d > ZERO
                and abs((fits[LOW, lane + j] + shift) / d) <= REACH
                and abs((fits[HIGH, lane + j] + shift) / d) <= REACH
            ):
                return False
            for i in range(j * sub, j * sub + sub, 16):
                store(row, i, max(ZERO, min(top, rounded((load(row, i, 16) + shift) / d))))
        return True

    return write
