"""What the compiled quantizers share: scratch memory, reading a group of super-blocks, rounding.

Import this only where numba is installed. Each sub-block of a super-block (256 values) takes one
lane of a SIMD register, those of 8 super-blocks side by side, and each lane does the operations
of ggml's scalar code (ggml-quants.c, the quantize_row_*_K_ref functions) in the same order in
float32, so that the bytes come out the same. LLVM turns the lane loops into SIMD code as long as
they are the innermost ones and it sees that their arrays are apart, as it does for memory on the
stack, and that no index can be negative, which numba would count from the end.
"""

# ruff: noqa: ARG001 - the functions of every type take what those of one need

import hashlib
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

Floats = NDArray[np.float32]
Bits = NDArray[np.uint16]  # those of BF16 values
Bytes = NDArray[np.uint8]
Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Compile on the first call: no fused multiply-add, no reordering, no Python lock held."""
    compiler: Any = numba.njit(nogil=True, fastmath=False, error_model="numpy")
    return compiler(_named_by_contents(function))  # type: ignore[no-any-return]


def inlined(function: Function) -> Function:
    """The same, as a part of the function that calls it, which sees the arrays' shapes."""
    compiler: Any = numba.njit(inline="always", error_model="numpy")
    return compiler(_named_by_contents(function))  # type: ignore[no-any-return]


def _named_by_contents(function: Function) -> Function:
    """The function, called by what it closes over as well.

    Compiled functions are linked by name, type of arguments and a number that begins anew in each
    process. Of two that one factory made, which two processes kept in the cache, a third would take
    the code of one for both.
    """
    if contents := [cell.cell_contents for cell in function.__closure__ or ()]:
        named = (
            f"{one.__module__}.{one.__qualname__}" if hasattr(one, "__qualname__") else repr(one)
            for one in contents
        )
        digest = hashlib.sha256("\n".join(named).encode()).hexdigest()[:16]
        function.__qualname__ = f"{function.__qualname__}_{digest}"
    return function


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
def load(values: Floats, bits: Bits, row: Floats) -> np.uint32:
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
def load_importances(importances: Floats, start: int, row: Floats) -> None:
    """Copy those of the values from the start-th on, counted over whole rows, into row."""
    place = start % importances.size
    for i in range(row.size):
        row[i] = importances[place]
        place = place + 1 if place + 1 < importances.size else 0


@compiled
def write_half(value: np.float32, out: Bytes, at: int) -> np.float32:
    """Write the nearest half-precision number to two bytes from at on; its value."""
    bits, rounded = half(np.float32(value))
    out[at], out[at + 1] = bits & 255, bits >> 8
    return rounded


def quantizer(
    sub: int,
    block: int,
    weigh: Callable[..., Any],
    search: Callable[..., Any],
    pack: Callable[..., Any],
) -> Callable[..., Any]:
    """A compiled function that quantizes to blocks of so many values, sub of them a lane.

    It takes values (float32), or BF16 bits where values is empty; importances of a row's columns,
    or none; out, of shape (blocks, bytes a block); and left, of shape (blocks,), which gets 1 for
    each block that is left to ggml: one with a value that is not finite, a level out of REACH, or
    a sub-block whose scale rounds to 0. The result is the largest magnitude seen, as the bits of a
    float32.

    A group's values are lanes, of shape (GROUP // sub, sub), and so are its weights, which are its
    importances until weigh(lanes, weights, values, bits, columns, first) makes the errors' weights
    of them; first is the place of the group's first value. search(lanes, weights, weighted, fits)
    finds what fits each lane; fits has a row for each name below and a column a lane.
    pack(row, fits, lane, weighted, out) writes the block whose first lane that is; 1 where it is
    left to ggml.
    """
    lanes_a_group, lanes_a_block, together = GROUP // sub, block // sub, GROUP // block

    @compiled
    def quantize(values: Floats, bits: Bits, importances: Floats, out: Bytes, left: Bytes) -> Any:
        weighted = importances.size > 0
        important = stack(GROUP)
        space = stack(GROUP)
        flat, rows = carray(space, (GROUP,)), carray(space, (together, block))
        lanes = carray(space, (lanes_a_group, sub))
        weights = carray(important, (lanes_a_group, sub))
        fits = carray(stack(GROUP), (8, lanes_a_group))
        largest = np.uint32(0)
        for start in range(0, out.shape[0], together):
            count = min(together, out.shape[0] - start)
            first, last = start * block, (start + count) * block
            largest = max(largest, load(values[first:last], bits[first:last], flat))
            if weighted:
                load_importances(importances, first, carray(important, (GROUP,)))
                weigh(lanes, weights, values, bits, importances.size, first)
            search(lanes, weights, weighted, fits)
            for i in range(count):
                at = start + i
                left[at] = pack(rows[i], fits, i * lanes_a_block, weighted, out[at])
        return largest

    return quantize


# Rows of fits. LOW, HIGH and PEAK are the smallest and largest value and the largest magnitude;
# FACTOR is what values were multiplied with for the best levels; UNSURE is not zero where ggml must
# find it; WEIGHTS are the weights' sums.
SCALE, MINIMUM, LOW, HIGH, UNSURE, WEIGHTS, PEAK, FACTOR = range(8)


def weigh_by_block(sub: int, times: int) -> Callable[..., Any]:
    """Weights of ggml's quantizers: small values count less, beside their super-block's mean
    square, so many times.
    """
    count = BLOCK // sub

    @compiled
    def weigh(
        lanes: Floats, weights: Floats, values: Floats, bits: Bits, columns: int, first: int
    ) -> None:
        squares = carray(stack(GROUP), (BLOCKS * count,))
        sums = carray(stack(BLOCKS), (BLOCKS,))
        for block in range(BLOCKS):
            sums[block] = ZERO
        for j in range(count):
            for i in range(sub):
                for block in range(BLOCKS):
                    v = lanes[block * count + j, i]
                    sums[block] += v * v
        for block in range(BLOCKS):
            for j in range(count):
                squares[block * count + j] = np.float32(times) * sums[block] / np.float32(BLOCK)
        weigh_beside(lanes, squares, weights)

    return weigh


@compiled
def weigh_beside(lanes: Floats, squares: Floats, weights: Floats) -> None:
    """Multiply each lane's weights by the root of its values' squares and a mean square."""
    for k in range(lanes.shape[0]):
        for i in range(lanes.shape[1]):
            v = lanes[k, i]
            weights[k, i] = weights[k, i] * np.sqrt(squares[k] + v * v)
