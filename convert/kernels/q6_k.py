"""The compiled quantizer for Q6_K: ggml's quantize_row_q6_K_ref and quantize_row_q6_K_impl.

Import this only where numba is installed. See lanes for how it works.
"""

# ruff: noqa: ARG001 - the functions of every type take what those of one need

import numpy as np

from convert.kernels.lanes import (
    BLOCK,
    LARGEST_HALF,
    ONE,
    SCALE,
    ZERO,
    Bytes,
    Floats,
    compiled,
    quantizer,
    rounded,
    write_half,
)
from convert.kernels.scales import extreme_scale, scale_search, signed_levels, weigh_as_given
from convert.kernels.vectors import load, store, whole

SUB = 16  # values a sub-block
TOP = np.float32(31)
BOTTOM = np.float32(-32)


@compiled
def _pack(row: Floats, fits: Floats, lane: int, weighted: bool, out: Bytes) -> int:
    extreme = extreme_scale(fits, lane, 16)
    factor = np.float32(-128) / extreme
    inverse = np.float32(ONE / factor)
    if extreme == ZERO or not abs(inverse) <= LARGEST_HALF:
        return 1
    unit = write_half(inverse, out, 208)
    for j in range(16):
        level = min(rounded(factor * fits[SCALE, lane + j]), np.float32(127))
        out[192 + j] = int(level) & 255
        fits[SCALE, lane + j] = unit * level
    if not signed_levels(row, fits, lane, BOTTOM, TOP):
        return 1
    for half in range(2):
        a, b = whole(load(row, half * 128, 32)), whole(load(row, half * 128 + 32, 32))
        c, e = whole(load(row, half * 128 + 64, 32)), whole(load(row, half * 128 + 96, 32))
        store(out, half * 64, (a & 15) | (c << 4))
        store(out, half * 64 + 32, (b & 15) | (e << 4))
        high = (a >> 4) | ((b >> 4) << 2) | ((c >> 4) << 4) | ((e >> 4) << 6)
        store(out, 128 + half * 32, high)
    return 0


quantize = quantizer(SUB, BLOCK, weigh_as_given, scale_search(SUB, BOTTOM, TOP), _pack)
