"""The compiled quantizers for Q4_K and Q5_K: ggml's quantize_row_q4_K_ref, quantize_row_q5_K_ref,
and with importances its quantize_row_q4_K_impl and quantize_row_q5_K_impl.

Import this only where numba is installed. See lanes for how it works.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from convert.kernels.lanes import BLOCK, Bytes, Floats, compiled, quantizer, weigh_by_block
from convert.kernels.minimums import MINIMUM_LEVEL, SCALE_LEVEL, minimum_levels, minimum_search
from convert.kernels.vectors import load, store, whole

SUB = 32  # values a sub-block
SUBS = BLOCK // SUB

_write_levels = minimum_levels(SUB, SUBS, np.float32(63))


def _kernel(five: bool) -> Callable[..., Any]:
    """For levels of five bits, else four."""
    top = np.float32(31 if five else 15)
    search = minimum_search(SUB, top, -0.5, 16) if five else minimum_search(SUB, top, -1, 21)

    @compiled
    def pack(row: Floats, fits: Floats, lane: int, weighted: bool, out: Bytes) -> int:
        if not _write_levels(row, fits, lane, weighted, top, out, 0):
            return 1
        for j in range(SUBS):
            s, m = int(fits[SCALE_LEVEL, lane + j]), int(fits[MINIMUM_LEVEL, lane + j])
            if j < 4:
                out[4 + j] = s
                out[8 + j] = m
            else:
                out[8 + j] = (s & 15) | ((m & 15) << 4)
                out[j] |= (s >> 4) << 6
                out[4 + j] |= (m >> 4) << 6
        if five:
            high = whole(load(row, 0, SUB)) >> 4
            for j in range(1, SUBS):
                high |= (whole(load(row, j * SUB, SUB)) >> 4) << j
            store(out, 16, high)
        start = 48 if five else 16
        for pair in range(4):
            low = whole(load(row, pair * 64, SUB)) & 15
            store(out, start + pair * SUB, low | (whole(load(row, pair * 64 + SUB, SUB)) << 4))
        return 0

    return quantizer(SUB, BLOCK, weigh_by_block(SUB, 2), search, pack)


quantize_q4 = _kernel(five=False)
quantize_q5 = _kernel(five=True)
