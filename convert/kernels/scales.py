"""The searches for scales that the compiled quantizers share, each lane a sub-block of its own.

Import this only where numba is installed. See lanes for how it works. A table `fits` gets
what they find, a row for each of the names below and a column a lane.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convert.kernels.lanes import (
    BLOCK,
    BLOCKS,
    GROUP,
    LARGEST,
    NOTHING,
    ONE,
    REACH,
    ROUND,
    TENTH,
    ZERO,
    carray,
    compiled,
    stack,
)

# Rows of fits. PEAK is the largest magnitude; FACTOR is what values were multiplied with for the
# best levels; UNSURE is not zero where ggml must find it; WEIGHTS are the weights' sums.
SCALE, MINIMUM, LOW, HIGH, UNSURE, WEIGHTS, PEAK, FACTOR = range(8)
BLOCK_SCALE = LOW  # where there is no minimum


def minimum_search(sub: int, absolute: bool = False) -> Callable[..., Any]:
    """A compiled function for sub-blocks of so many values that have a scale and a minimum.

    ggml's make_qkx2_quants, or with importances its make_qkx3_quants, with their callers' weights;
    absolute takes errors for their squares. squares are those that the weights begin with.
    """
    lanes = GROUP // sub

    @compiled
    def search(
        row: NDArray[np.float32],
        importances: NDArray[np.float32],
        squares: NDArray[np.float32],
        weighted: bool,
        fits: NDArray[np.float32],
        top: np.float32,
        first_step: np.float32,
        step: np.float32,
        steps: int,
    ) -> None:
        x = carray(stack(GROUP), (sub, lanes))
        weight = carray(stack(GROUP), (sub, lanes))
        level = carray(stack(GROUP), (sub, lanes))
        sums = carray(stack(GROUP), (16, lanes))
        low, high, minimum, scale, unsure = sums[0], sums[1], sums[2], sums[3], sums[4]
        sum_w, sum_x, sum_l, sum_l2, sum_xl = sums[5], sums[6], sums[7], sums[8], sums[9]
        factor, error, best, trial, trial_min = sums[10], sums[11], sums[12], sums[13], sums[14]
        determinant = sums[15]
        for k in range(lanes):
            for i in range(sub):
                x[i, k] = row[k, i]
        for k in range(lanes):
            low[k] = x[0, k]
            high[k] = x[0, k]
            sum_l2[k] = ZERO
            sum_w[k] = ZERO
            sum_x[k] = ZERO
        for i in range(sub):
            for k in range(lanes):
                v = x[i, k]
                low[k] = v if v < low[k] else low[k]
                high[k] = v if v > high[k] else high[k]
                sum_l2[k] += v * v
        for k in range(lanes):
            unsure[k] = ZERO if sum_l2[k] <= LARGEST else ONE
            sum_l2[k] = np.sqrt(sum_l2[k] / np.float32(sub))
        if weighted:
            for i in range(sub):
                for k in range(lanes):
                    v = x[i, k]
                    weight[i, k] = importances[k, i] * np.sqrt(squares[k] + v * v)
        elif absolute:
            for i in range(sub):
                for k in range(lanes):
                    weight[i, k] = abs(x[i, k])
        else:
            for i in range(sub):
                for k in range(lanes):
                    weight[i, k] = sum_l2[k] + abs(x[i, k])
        for i in range(sub):
            for k in range(lanes):
                w = weight[i, k]
                sum_w[k] += w
                sum_x[k] += w * x[i, k]
        for k in range(lanes):
            minimum[k] = ZERO if low[k] > ZERO else low[k]
            factor[k] = top / (high[k] - minimum[k])
            scale[k] = ONE / factor[k]
            best[k] = ZERO
            near = abs(factor[k] * (low[k] - minimum[k])) <= REACH
            near &= abs(factor[k] * (high[k] - minimum[k])) <= REACH
            unsure[k] = unsure[k] if near else ONE
        for i in range(sub):
            for k in range(lanes):
                v = x[i, k]
                q = (factor[k] * (v - minimum[k]) + ROUND) - ROUND
                q = top if q > top else q
                q = ZERO if q < ZERO else q
                d = scale[k] * q + minimum[k] - v
                best[k] += weight[i, k] * (abs(d) if absolute else d * d)
        for i in range(steps):
            numerator = first_step + step * np.float32(i) + top
            for k in range(lanes):
                factor[k] = numerator / (high[k] - minimum[k])
                near = abs(factor[k] * (low[k] - minimum[k])) <= REACH
                near &= abs(factor[k] * (high[k] - minimum[k])) <= REACH
                unsure[k] = unsure[k] if near else ONE
                sum_l[k] = ZERO
                sum_l2[k] = ZERO
                sum_xl[k] = ZERO
                error[k] = ZERO
            for i in range(sub):
                for k in range(lanes):
                    v = x[i, k]
                    q = (factor[k] * (v - minimum[k]) + ROUND) - ROUND
                    q = top if q > top else q
                    q = ZERO if q < ZERO else q
                    level[i, k] = q
                    wq = weight[i, k] * q
                    sum_l[k] += wq
                    sum_l2[k] += wq * q
                    sum_xl[k] += wq * v
            for k in range(lanes):
                d = sum_w[k] * sum_l2[k] - sum_l[k] * sum_l[k]
                m = (sum_l2[k] * sum_x[k] - sum_l[k] * sum_xl[k]) / d
                s = (sum_w[k] * sum_xl[k] - sum_x[k] * sum_l[k]) / d
                alone = sum_xl[k] / sum_l2[k]
                trial[k] = alone if m > ZERO else s
                trial_min[k] = ZERO if m > ZERO else m
                determinant[k] = d
            for i in range(sub):
                for k in range(lanes):
                    d = trial[k] * level[i, k] + trial_min[k] - x[i, k]
                    error[k] += weight[i, k] * (abs(d) if absolute else d * d)
            for k in range(lanes):
                better = (determinant[k] > ZERO) & (error[k] < best[k])
                best[k] = error[k] if better else best[k]
                scale[k] = trial[k] if better else scale[k]
                minimum[k] = trial_min[k] if better else minimum[k]
        for k in range(lanes):
            fits[SCALE, k] = scale[k]
            fits[MINIMUM, k] = -minimum[k]
            fits[LOW, k] = low[k]
            fits[HIGH, k] = high[k]
            fits[UNSURE, k] = unsure[k]
            fits[WEIGHTS, k] = sum_w[k]

    return search


def scale_search(sub: int) -> Callable[..., Any]:
    """A compiled function for sub-blocks of so many values that have a scale alone.

    ggml's make_qx_quants for each lane of row, levels from bottom (negative) to top. Errors are
    weighed by weights where weighted says so, else by the values' squares.
    """
    lanes = GROUP // sub

    @compiled
    def search(
        row: NDArray[np.float32],
        weights: NDArray[np.float32],
        weighted: bool,
        fits: NDArray[np.float32],
        bottom: np.float32,
        top: np.float32,
    ) -> None:
        x = carray(stack(GROUP), (sub, lanes))
        weight = carray(stack(GROUP), (sub, lanes))
        product = carray(stack(GROUP), (sub, lanes))
        sums = carray(stack(GROUP), (9, lanes))
        peak, extreme, factor, sum_lx = sums[0], sums[1], sums[2], sums[3]
        sum_l2, scale, best, chosen, sum_w = sums[4], sums[5], sums[6], sums[7], sums[8]
        for k in range(lanes):
            for i in range(sub):
                x[i, k] = row[k, i]
        if weighted:
            for k in range(lanes):
                for i in range(sub):
                    weight[i, k] = weights[k, i]
        else:
            for i in range(sub):
                for k in range(lanes):
                    weight[i, k] = x[i, k] * x[i, k]
        for k in range(lanes):
            peak[k] = ZERO
            extreme[k] = ZERO
            sum_w[k] = ZERO
        for i in range(sub):
            for k in range(lanes):
                v = x[i, k]
                a = abs(v)
                extreme[k] = v if a > peak[k] else extreme[k]
                peak[k] = a if a > peak[k] else peak[k]
                product[i, k] = weight[i, k] * v
                sum_w[k] += weight[i, k]
        for step in range(-10, 10):  # ggml's first trial, at -10 here, is the one for step 0
            shift = ZERO if step == -10 else TENTH * np.float32(step)
            numerator = bottom - shift
            if step == 0:
                continue
            for k in range(lanes):
                factor[k] = numerator / extreme[k]
                sum_lx[k] = ZERO
                sum_l2[k] = ZERO
            for i in range(sub):
                for k in range(lanes):
                    q = (factor[k] * x[i, k] + ROUND) - ROUND
                    q = top if q > top else q
                    q = bottom if q < bottom else q
                    sum_lx[k] += product[i, k] * q
                    sum_l2[k] += (weight[i, k] * q) * q
            if step == -10:
                for k in range(lanes):
                    s = sum_lx[k] / sum_l2[k]
                    scale[k] = ZERO if sum_l2[k] == ZERO else s
                    best[k] = scale[k] * sum_lx[k]
                    chosen[k] = factor[k]
                    sure = (sum_l2[k] <= LARGEST) & (peak[k] >= NOTHING) & (peak[k] <= LARGEST)
                    fits[UNSURE, k] = ZERO if sure else ONE
            else:
                for k in range(lanes):
                    s = sum_lx[k] / sum_l2[k]
                    better = (sum_l2[k] > ZERO) & (sum_lx[k] * sum_lx[k] > best[k] * sum_l2[k])
                    scale[k] = s if better else scale[k]
                    best[k] = s * sum_lx[k] if better else best[k]
                    chosen[k] = factor[k] if better else chosen[k]
        for k in range(lanes):
            fits[SCALE, k] = scale[k]
            fits[PEAK, k] = peak[k]
            fits[FACTOR, k] = chosen[k]
            fits[WEIGHTS, k] = sum_w[k]

    return search


@compiled
def block_squares(
    row: NDArray[np.float32], squares: NDArray[np.float32], times: np.float32
) -> None:
    """For each lane the mean square of its super-block's values, so many times."""
    lanes, sub = row.shape[0] // BLOCKS, row.shape[1]
    sums = carray(stack(BLOCKS), (BLOCKS,))
    for block in range(BLOCKS):
        sums[block] = ZERO
    for j in range(lanes):
        for i in range(sub):
            for block in range(BLOCKS):
                v = row[block * lanes + j, i]
                sums[block] += v * v
    for block in range(BLOCKS):
        for j in range(lanes):
            squares[block * lanes + j] = times * sums[block] / np.float32(BLOCK)


@compiled
def positive_levels(
    values: NDArray[np.float32],
    weights: NDArray[np.float32],
    levels: NDArray[np.float32],
    top: np.float32,
) -> np.float32:
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


@compiled
def weigh(
    row: NDArray[np.float32], squares: NDArray[np.float32], weights: NDArray[np.float32]
) -> None:
    """Turn importances into the weights of ggml's quantizers: those of small values count less."""
    for k in range(row.shape[0]):
        for i in range(row.shape[1]):
            v = row[k, i]
            weights[k, i] = weights[k, i] * np.sqrt(squares[k] + v * v)


@compiled
def square_weights(row: NDArray[np.float32], weights: NDArray[np.float32]) -> None:
    """The weights without importances, where they are the values' squares."""
    for k in range(row.shape[0]):
        for i in range(row.shape[1]):
            weights[k, i] = row[k, i] * row[k, i]


@compiled
def pack_twos(row: NDArray[np.float32], out: NDArray[np.uint8]) -> None:
    """The lowest two bits of each of a super-block's 256 levels, four a byte, as ggml has them."""
    three = np.int32(3)
    for part in range(2):
        for i in range(32):
            low = np.int32(row[part * 128 + i]) & three
            low |= (np.int32(row[part * 128 + 32 + i]) & three) << np.int32(2)
            low |= (np.int32(row[part * 128 + 64 + i]) & three) << np.int32(4)
            low |= (np.int32(row[part * 128 + 96 + i]) & three) << np.int32(6)
            out[part * 32 + i] = low


@compiled
def signed_levels(fits: NDArray[np.float32], bottom: np.float32, top: np.float32) -> None:
    """ggml's make_qx_quants for the 16 scales of each super-block, by their weights.

    The levels, from bottom to top, go to FACTOR, the scale to a super-block's first BLOCK_SCALE;
    that is 0 where it is ggml's to find.
    """
    x = carray(stack(BLOCK), (16, BLOCKS))
    weight = carray(stack(BLOCK), (16, BLOCKS))
    sums = carray(stack(BLOCK), (8, BLOCKS))
    peak, extreme, factor, sum_lx = sums[0], sums[1], sums[2], sums[3]
    sum_l2, scale, best, chosen = sums[4], sums[5], sums[6], sums[7]
    for k in range(BLOCKS):
        for i in range(16):
            x[i, k] = fits[SCALE, k * 16 + i]
            weight[i, k] = fits[WEIGHTS, k * 16 + i]
        peak[k] = ZERO
        extreme[k] = ZERO
    for i in range(16):
        for k in range(BLOCKS):
            v = x[i, k]
            a = abs(v)
            extreme[k] = v if a > peak[k] else extreme[k]
            peak[k] = a if a > peak[k] else peak[k]
    for step in range(-10, 10):  # ggml's first trial, at -10 here, is the one for step 0
        numerator = bottom - (ZERO if step == -10 else TENTH * np.float32(step))
        if step == 0:
            continue
        for k in range(BLOCKS):
            factor[k] = numerator / extreme[k]
            sum_lx[k] = ZERO
            sum_l2[k] = ZERO
        for i in range(16):
            for k in range(BLOCKS):
                q = (factor[k] * x[i, k] + ROUND) - ROUND
                q = top if q > top else q
                q = bottom if q < bottom else q
                sum_lx[k] += (weight[i, k] * x[i, k]) * q
                sum_l2[k] += (weight[i, k] * q) * q
        for k in range(BLOCKS):
            s = sum_lx[k] / sum_l2[k]
            if step == -10:
                s = s if sum_l2[k] <= LARGEST else ZERO
                scale[k] = s if sum_l2[k] > ZERO else ZERO
                best[k] = scale[k] * sum_lx[k]
                chosen[k] = factor[k]
            else:
                better = (sum_l2[k] > ZERO) & (sum_lx[k] * sum_lx[k] > best[k] * sum_l2[k])
                scale[k] = s if better else scale[k]
                best[k] = s * sum_lx[k] if better else best[k]
                chosen[k] = factor[k] if better else chosen[k]
    for k in range(BLOCKS):
        fits[BLOCK_SCALE, k * 16] = scale[k] if peak[k] >= NOTHING else ZERO
        for i in range(16):
            q = (chosen[k] * x[i, k] + ROUND) - ROUND
            fits[FACTOR, k * 16 + i] = max(min(q, top), bottom)
