"""Types of a scale and a minimum a sub-block: the search for both, and the levels above it.

Import this only where numba is installed. See lanes for how it works.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from convert.kernels.lanes import (
    FACTOR,
    GROUP,
    HIGH,
    LARGEST,
    LARGEST_HALF,
    LOW,
    MINIMUM,
    NOTHING,
    ONE,
    PEAK,
    REACH,
    ROUND,
    SCALE,
    TENTH,
    UNSURE,
    WEIGHTS,
    ZERO,
    Bytes,
    Floats,
    carray,
    compiled,
    stack,
    write_half,
)
from convert.kernels.vectors import column, filled, load, roots, select, store

WIDE = 16  # lanes that are searched together
SCALE_LEVEL, MINIMUM_LEVEL = PEAK, FACTOR  # rows of fits that these types have no other use for


def minimum_search(sub: int, top: np.float32, *, absolute: bool = False) -> Callable[..., Any]:
    """A compiled function for lanes of so many values: ggml's make_qkx2_quants or make_qkx3_quants.

    The latter, with weights, where weighted says so. Levels go from 0 to top; a scale is tried for
    each of so many steps from the first on. absolute takes errors for their squares.
    """
    count, size = GROUP // sub, sub * WIDE

    @compiled
    def search(
        lanes: Floats,
        weights: Floats,
        weighted: bool,
        fits: Floats,
        first: np.float32,
        step: np.float32,
        steps: int,
    ) -> None:
        x = carray(stack(size), (sub, WIDE))
        weight = carray(stack(size), (sub, WIDE))
        level = carray(stack(size), (sub, WIDE))
        none = filled(ZERO, WIDE)
        for lane in range(0, count, WIDE):
            low = high = column(lanes, lane * sub, sub, WIDE)
            squares = sum_w = sum_x = best = none
            for i in range(sub):
                v = column(lanes, lane * sub + i, sub, WIDE)
                low, high = min(v, low), max(v, high)
                squares += v * v
                store(x, i * WIDE, v)
            mean = roots(squares / np.float32(sub))
            for i in range(sub):
                v = load(x, i * WIDE, WIDE)
                if weighted:
                    w = column(weights, lane * sub + i, sub, WIDE)
                else:
                    w = abs(v) if absolute else mean + abs(v)
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
                q = max(ZERO, min(top, (factor * (v - minimum) + ROUND) - ROUND))
                d = scale * q + minimum - v
                best += load(weight, i * WIDE, WIDE) * (abs(d) if absolute else d * d)
            for trials in range(steps):
                factor = (first + step * np.float32(trials) + top) / (high - minimum)
                sure &= abs(factor * (low - minimum)) <= REACH
                sure &= abs(factor * (high - minimum)) <= REACH
                sum_l = sum_l2 = sum_xl = error = none
                for i in range(sub):
                    v = load(x, i * WIDE, WIDE)
                    q = max(ZERO, min(top, (factor * (v - minimum) + ROUND) - ROUND))
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
            store(fits, SCALE * count + lane, scale)
            store(fits, MINIMUM * count + lane, minimum * -ONE)
            store(fits, LOW * count + lane, low)
            store(fits, HIGH * count + lane, high)
            store(fits, UNSURE * count + lane, select(sure, none, filled(ONE, WIDE)))
            store(fits, WEIGHTS * count + lane, sum_w)

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
        for i in range(count):
            levels[i] = ZERO
        return ZERO
    factor = top / largest
    best = ZERO
    scale = ONE / factor
    for i in range(count):
        d = values[i] - scale * ((factor * values[i] + ROUND) - ROUND)
        best += weights[i] * d * d
    for step in range(-4, 5):
        if step == 0:
            continue
        trial = (TENTH * np.float32(step) + top) / largest
        scale = ONE / trial
        error = ZERO
        for i in range(count):
            q = min((trial * values[i] + ROUND) - ROUND, top)
            d = values[i] - scale * q
            error += weights[i] * d * d
        if error < best:
            best = error
            factor = trial
    sum_x = sum_l2 = ZERO
    for i in range(count):
        q = min((factor * values[i] + ROUND) - ROUND, top)
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
                better = min((ideal + ROUND) - ROUND, top)
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
            sure = ZERO <= scales[j] <= LARGEST and ZERO <= minimums[j] <= LARGEST
            if fits[UNSURE, lane + j] != ZERO or not sure:
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
                levels[j] = (inverse * scales[j] + ROUND) - ROUND
                shifts[j] = (inverse_min * minimums[j] + ROUND) - ROUND
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
                q = ((load(row, i, 16) + shift) / d + ROUND) - ROUND
                store(row, i, max(ZERO, min(top, q)))
        return True

    return write
