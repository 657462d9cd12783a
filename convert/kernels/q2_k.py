"""The compiled quantizer for Q2_K: ggml's quantize_row_q2_K_ref and quantize_row_q2_K_impl.

Import this only where numba is installed. See lanes for how it works.
"""

import numpy as np

from convert.kernels.lanes import BLOCK, Bytes, Floats, compiled, quantizer, weigh_by_block
from convert.kernels.minimums import MINIMUM_LEVEL, SCALE_LEVEL, minimum_levels, minimum_search
from convert.kernels.vectors import load, store, whole

SUB = 16  # values a sub-block
SUBS = BLOCK // SUB
TOP = np.float32(3)

_write_levels = minimum_levels(SUB, SUBS, np.float32(15))


@compiled
def _pack(row: Floats, fits: Floats, lane: int, weighted: bool, out: Bytes) -> int:
    if not _write_levels(row, fits, lane, weighted, TOP, out, 80):
        return 1
    for j in range(SUBS):
        out[j] = int(fits[SCALE_LEVEL, lane + j]) | (int(fits[MINIMUM_LEVEL, lane + j]) << 4)
    pack_twos(row, out[16:80])
    return 0


@compiled
def pack_twos(row: Floats, out: Bytes) -> None:
    """The lowest two bits of each of a super-block's 256 levels, four a byte, as ggml has them."""
    for half in range(2):
        low = whole(load(row, half * 128, 32)) & 3
        for j in range(1, 4):
            low |= (whole(load(row, half * 128 + j * 32, 32)) & 3) << (2 * j)
        store(out, half * 32, low)


_search = minimum_search(SUB, TOP, -0.5, 16, absolute=True)
quantize = quantizer(SUB, BLOCK, weigh_by_block(SUB, 1), _search, _pack)
