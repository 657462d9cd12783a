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

SCALE_LEVEL, MINIMUM_LEVEL = PEAK, FACTOR  # rows of fits that these types have no other use for


def minimum_search(sub: int, top: np.float32, *, absolute: bool = False) -> Callable[..., Any]:
    """A compiled function for lanes of so many values: ggml's make_qkx2_quants or make_qkx3_quants.

    The latter, with weights, where weighted says so. Levels go from 0 to top; a scale is tried for
    each of so many steps from the first on. absolute takes errors for their squares.
    """
    count = GROUP // sub

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
        x = carray(stack(GROUP), (sub, count))
        weight = carray(stack(GROUP), (sub, count))
        level = carray(stack(GROUP), (sub, count))
        sums = carray(stack(GROUP), (16, count))
        low, high, minimum, scale, unsure = sums[0], sums[1], sums[2], sums[3], sums[4]
        sum_w, sum_x, sum_l, sum_l2, sum_xl = sums[5], sums[6], sums[7], sums[8], sums[9]
        factor, error, best, trial, trial_min = sums[10], sums[11], sums[12], sums[13], sums[14]
        determinant = sums[15]
        for k in range(count):
            for i in range(sub):
                x[i, k] = lanes[k, i]
        for k in range(count):
            low[k] = x[0, k]
            high[k] = x[0, k]
            sum_l2[k] = ZERO
            sum_w[k] = ZERO
            sum_x[k] = ZERO
        for i in range(sub):
            for k in range(count):
                v = x[i, k]
                low[k] = v if v < low[k] else low[k]
                high[k] = v if v > high[k] else high[k]
                sum_l2[k] += v * v
        for k in range(count):
            unsure[k] = ZERO if sum_l2[k] <= LARGEST else ONE
            sum_l2[k] = np.sqrt(sum_l2[k] / np.float32(sub))
        if weighted:
            for k in range(count):
                for i in range(sub):
                    weight[i, k] = weights[k, i]
        elif absolute:
            for i in range(sub):
                for k in range(count):
                    weight[i, k] = abs(x[i, k])
        else:
            for i in range(sub):
                for k in range(count):
                    weight[i, k] = sum_l2[k] + abs(x[i, k])
        for i in range(sub):
            for k in range(count):
                w = weight[i, k]
                sum_w[k] += w
                sum_x[k] += w * x[i, k]
        for k in range(count):
            minimum[k] = ZERO if low[k] > ZERO else low[k]
            factor[k] = top / (high[k] - minimum[k])
            scale[k] = ONE / factor[k]
            best[k] = ZERO
            near = abs(factor[k] * (low[k] - minimum[k])) <= REACH
            near &= abs(factor[k] * (high[k] - minimum[k])) <= REACH
            unsure[k] = unsure[k] if near else ONE
        for i in range(sub):
            for k in range(count):
                v = x[i, k]
                q = (factor[k] * (v - minimum[k]) + ROUND) - ROUND
                q = top if q > top else q
                q = ZERO if q < ZERO else q
                d = scale[k] * q + minimum[k] - v
                best[k] += weight[i, k] * (abs(d) if absolute else d * d)
        for i in range(steps):
            numerator = first + step * np.float32(i) + top
            for k in range(count):
                factor[k] = numerator / (high[k] - minimum[k])
                near = abs(factor[k] * (low[k] - minimum[k])) <= REACH
                near &= abs(factor[k] * (high[k] - minimum[k])) <= REACH
                unsure[k] = unsure[k] if near else ONE
                sum_l[k] = ZERO
                sum_l2[k] = ZERO
                sum_xl[k] = ZERO
                error[k] = ZERO
            for i in range(sub):
                for k in range(count):
                    v = x[i, k]
                    q = (factor[k] * (v - minimum[k]) + ROUND) - ROUND
                    q = top if q > top else q
                    q = ZERO if q < ZERO else q
                    level[i, k] = q
                    wq = weight[i, k] * q
                    sum_l[k] += wq
                    sum_l2[k] += wq * q
                    sum_xl[k] += wq * v
            for k in range(count):
                d = sum_w[k] * sum_l2[k] - sum_l[k] * sum_l[k]
                m = (sum_l2[k] * sum_x[k] - sum_l[k] * sum_xl[k]) / d
                s = (sum_w[k] * sum_xl[k] - sum_x[k] * sum_l[k]) / d
                alone = sum_xl[k] / sum_l2[k]
                trial[k] = alone if m > ZERO else s
                trial_min[k] = ZERO if m > ZERO else m
                determinant[k] = d
            for i in range(sub):
                for k in range(count):
                    d = trial[k] * level[i, k] + trial_min[k] - x[i, k]
                    error[k] += weight[i, k] * (abs(d) if absolute else d * d)
            for k in range(count):
                better = (determinant[k] > ZERO) & (error[k] < best[k])
                best[k] = error[k] if better else best[k]
                scale[k] = trial[k] if better else scale[k]
                minimum[k] = trial_min[k] if better else minimum[k]
        for k in range(count):
            fits[SCALE, k] = scale[k]
            fits[MINIMUM, k] = -minimum[k]
            fits[LOW, k] = low[k]
            fits[HIGH, k] = high[k]
            fits[UNSURE, k] = unsure[k]
            fits[WEIGHTS, k] = sum_w[k]

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
            for i in range(sub):
                q = ((row[j * sub + i] + shift) / d + ROUND) - ROUND
                q = top if q > top else q
                row[j * sub + i] = ZERO if q < ZERO else q
        return True

    return write
