"""The compiled quantizer for Q6_K: ggml's quantize_row_q6_K_ref and quantize_row_q6_K_impl.

Import this only where numba is installed. See lanes for how it works.
"""

# ruff: noqa: ARG001 - the functions of every type take what those of one need

import numpy as np

from convert.kernels.lanes import (
    BLOCK,
    LARGEST_HALF,
    ONE,
    ROUND,
    SCALE,
    ZERO,
    Bytes,
    Floats,
    inlined,
    quantizer,
    write_half,
)
from convert.kernels.scales import extreme_scale, scale_search, signed_levels, weigh_as_given

SUB = 16  # values a sub-block
TOP = np.float32(31)
BOTTOM = np.float32(-32)


@inlined
def _pack(row: Floats, fits: Floats, lane: int, weighted: bool, out: Bytes) -> int:
    extreme = extreme_scale(fits, lane, 16)
    factor = np.float32(-128) / extreme
    inverse = np.float32(ONE / factor)
    if extreme == ZERO or not abs(inverse) <= LARGEST_HALF:
        return 1
    unit = write_half(inverse, out, 208)
    for j in range(16):
        level = min((factor * fits[SCALE, lane + j] + ROUND) - ROUND, np.float32(127))
        out[192 + j] = int(level) & 255
        fits[SCALE, lane + j] = unit * level
    if not signed_levels(row, fits, lane, BOTTOM, TOP):
        return 1
    low, two, four, six = np.int32(15), np.int32(2), np.int32(4), np.int32(6)
    for part in range(2):
        for i in range(32):
            a = np.int32(row[part * 128 + i])
            b = np.int32(row[part * 128 + 32 + i])
            c = np.int32(row[part * 128 + 64 + i])
            e = np.int32(row[part * 128 + 96 + i])
            out[part * 64 + i] = (a & low) | ((c & low) << four)
            out[part * 64 + 32 + i] = (b & low) | ((e & low) << four)
            high = (a >> four) | ((b >> four) << two) | ((c >> four) << four)
            out[128 + part * 32 + i] = high | ((e >> four) << six)
    return 0


quantize = quantizer(SUB, BLOCK, weigh_as_given, scale_search(SUB, BOTTOM, TOP), _pack)
