"""What the compiled quantizers share: scratch memory, reading a group of super-blocks, rounding.

Import this only where numba is installed. Each sub-block of a super-block (256 values) takes one
lane of a SIMD register, those of 8 super-blocks side by side, and each lane does the operations
of ggml's scalar code (ggml-quants.c, the quantize_row_*_K_ref functions) in the same order in
float32, so that the bytes come out the same. LLVM turns the lane loops into SIMD code as long as
they are the innermost ones and it sees that their arrays are apart, as it does for memory on the
stack, and that no index can be negative, which numba would count from the end.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

types: Any = numba.types  # numba has type hints for a part only
carray: Any = numba.carray  # type: ignore[attr-defined]

BLOCK = 256  # values a super-block
BLOCKS = 8  # super-blocks that are quantized together
GROUP = BLOCK * BLOCKS
ZERO = np.float32(0)
ONE = np.float32(1)
ROUND = np.float32(12582912)  # 1.5 * 2**23: added and subtracted, it rounds to the nearest integer
REACH = np.float32(4194303)  # the largest magnitude that ROUND rounds
NOTHING = np.float32(1e-15)  # ggml's GROUP_MAX_EPS: values below it are all zeros
TENTH = np.float32(0.1)  # the step of most searches for a scale
LARGEST = np.float32(3.4028234663852886e38)
LARGEST_HALF = np.float32(65504)
SMALLEST_HALF_EXPONENT = np.uint32(0x38800000)  # 2**-14, the smallest normal half
ONE_HALF = np.float32(0.5)  # its last binary place is that of the subnormal halves, 2**-24

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Compile on the first call: no fused multiply-add, no reordering, no Python lock held."""
    compiler: Any = numba.njit(nogil=True, fastmath=False, error_model="numpy")
    return compiler(function)  # type: ignore[no-any-return]


def _stack(_context: Any, count: Any) -> Any:
    size = count.literal_value

    def generate(_target: Any, builder: Any, _signature: Any, _arguments: Any) -> Any:
        space: Any = cgutils.alloca_once(builder, ir.ArrayType(ir.FloatType(), size))  # type: ignore[no-untyped-call]
        space.align = 64
        return builder.bitcast(space, ir.FloatType().as_pointer())

    return types.CPointer(types.float32)(types.IntegerLiteral(size)), generate


# stack(count): space for count float32 values on the calling function's stack, for carray.
stack: Any = intrinsic(prefer_literal=True)(_stack)


@compiled
def load(
    values: NDArray[np.float32], bits: NDArray[np.uint16], row: NDArray[np.float32]
) -> np.uint32:
    """Copy values, or BF16 bits where values is empty, into row, with zeros behind them.

    The result is the largest magnitude among them, as the bits of a float32.
    """
    largest = np.uint32(0)
    for i in range(values.size):
        row[i] = values[i]
        wide = np.float32(values[i]).view(np.uint32)
        largest = max(largest, np.uint32(wide & np.uint32(0x7FFFFFFF)))
    for i in range(bits.size):
        wide = np.uint32(np.uint32(bits[i]) << np.uint32(16))
        row[i] = np.uint32(wide).view(np.float32)
        largest = max(largest, np.uint32(wide & np.uint32(0x7FFFFFFF)))
    for i in range(values.size + bits.size, row.size):
        row[i] = ZERO
    return largest


@compiled
def half(value: np.float32) -> tuple[np.uint32, np.float32]:
    """The bits of the nearest half-precision number, ties to even, and its value.

    The magnitude must be at most LARGEST_HALF.
    """
    bits = np.float32(value).view(np.uint32)
    sign = np.uint32(bits & np.uint32(0x80000000))
    magnitude = np.uint32(bits ^ sign)
    if magnitude >= SMALLEST_HALF_EXPONENT:
        odd = np.uint32((magnitude >> np.uint32(13)) & np.uint32(1))
        rounded = np.uint32((magnitude + np.uint32(0xFFF) + odd) & np.uint32(0xFFFFE000))
        narrow = np.uint32((rounded >> np.uint32(13)) - np.uint32(112 << 10))
    else:
        shifted = np.float32(np.uint32(magnitude).view(np.float32) + ONE_HALF)
        narrow = np.uint32(np.float32(shifted).view(np.uint32) - np.uint32(0x3F000000))
        rounded = np.float32(shifted - ONE_HALF).view(np.uint32)
    return narrow | (sign >> np.uint32(16)), np.uint32(rounded | sign).view(np.float32)


@compiled
def load_importances(
    importances: NDArray[np.float32], start: int, row: NDArray[np.float32]
) -> None:
    """Copy those of the values from the start-th on, counted over whole rows, into row."""
    place = start % importances.size
    for i in range(row.size):
        row[i] = importances[place]
        place = place + 1 if place + 1 < importances.size else 0
