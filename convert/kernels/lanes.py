"""What the compiled quantizers share: scratch memory, reading a group of super-blocks, rounding.

Import this only where numba is installed. Each sub-block of a super-block (256 values) takes one
lane of a vector, some sub-blocks side by side, and each lane does the operations of ggml's scalar
code (ggml-quants.c, the quantize_row_*_K_ref functions) in the same order in float32, so that the
bytes come out the same.
"""

import hashlib
from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np
from numpy.typing import NDArray

from convert.kernels.vectors import bits_of, column, filled, largest, load, roots, stack, store

carray: Any = numba.carray  # type: ignore[attr-defined]

BLOCK = 256  # values a super-block
STEP = 32  # values that are copied at once; every type's blocks are whole ones of these
ROWS = 8  # whose squares are summed together
BLOCKS = 8  # super-blocks that are quantized together
GROUP = BLOCK * BLOCKS
WIDE = 16  # lanes that are searched together
ZERO = np.float32(0)
ONE = np.float32(1)
ROUND = np.float32(12582912)  # 1.5 * 2**23: added and subtracted, it rounds to the nearest integer
REACH = np.float32(4194303)  # the largest magnitude that ROUND rounds
NOTHING = np.float32(1e-15)  # ggml's GROUP_MAX_EPS: values below it are all zeros
TENTH = np.float32(0.1)  # the step of most searches for a scale
MAGNITUDE = np.int32(0x7FFFFFFF)  # the bits of a float32 but its sign
LARGEST = np.float32(3.4028234663852886e38)
UNKNOWN = np.float32(np.nan)  # a scale that is ggml's to find
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


@compiled
def widen(values: Floats, bits: Bits, row: Floats) -> Any:
    """Copy values, or BF16 bits where values is empty, into row, with zeros behind them.

    The result is the largest magnitude among them, as the bits of a float32.
    """
    peak = filled(np.int32(0), STEP)
    for i in range(0, row.size, STEP):
        v = filled(ZERO, STEP)
        if i < values.size:
            v = load(values, i, STEP)
        elif i < bits.size:
            v = load(bits, i, STEP)
        store(row, i, v)
        peak = max(peak, bits_of(v) & MAGNITUDE)
    return largest(peak)


@compiled
def rounded(value: Any) -> Any:
    """The nearest integers to what is within REACH, ties to even; a vector's, or one."""
    return (value + ROUND) - ROUND


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
        nearest = np.uint32((magnitude + np.uint32(0xFFF) + odd) & np.uint32(0xFFFFE000))
        narrow = np.uint32((nearest >> np.uint32(13)) - np.uint32(112 << 10))
    else:
        shifted = np.float32(np.uint32(magnitude).view(np.float32) + ONE_HALF)
        narrow = np.uint32(np.float32(shifted).view(np.uint32) - np.uint32(0x3F000000))
        nearest = np.float32(shifted - ONE_HALF).view(np.uint32)
    return narrow | (sign >> np.uint32(16)), np.uint32(nearest | sign).view(np.float32)


@compiled
def load_importances(importances: Floats, start: int, row: Floats) -> None:
    """Copy those of the values from the start-th on, counted over whole rows, into row."""
    place = start % importances.size
    for i in range(0, row.size, STEP):
        store(row, i, load(importances, place, STEP))
        place = place + STEP if place + STEP < importances.size else 0


@compiled
def write_half(value: np.float32, out: Bytes, at: int) -> np.float32:
    """Write the nearest half-precision number to two bytes from at on; its value."""
    bits, nearest = half(np.float32(value))
    out[at], out[at + 1] = bits & 255, bits >> 8
    return nearest


def quantizer(
    sub: int,
    block: int,
    weigh: Callable[..., Any],
    search: Callable[..., Any],
    pack: Callable[..., Any],
    *,
    by_row: bool = False,
) -> Callable[..., Any]:
    """A compiled function that quantizes to blocks of so many values, sub of them a lane.

    It takes values (float32), or BF16 bits where values is empty; importances of a row's columns,
    or none; out, of shape (blocks, bytes a block); and left, of shape (blocks,), which gets 1 for
    each block that is left to ggml: one with a value that is not finite, a level out of REACH, or
    a sub-block whose scale rounds to 0. The result is the largest magnitude seen, as the bits of a
    float32.

    A group's values are lanes, of shape (GROUP // sub, sub), and so are its weights, which are its
    importances until weigh(lanes, weights, squares, columns, first) makes the errors' weights of
    them; first is the place of the group's first value, and squares are the rows' mean squares
    where by_row says so. search(lanes, weights, weighted, fits) finds what fits each lane (see
    by_lanes); fits has a row for each name below and a column a lane. pack(row, fits, lane,
    weighted, out) writes the block whose first lane that is; 1 where it is left to ggml.
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
        squares = mean_squares(values, bits, importances.size if by_row else 0)
        peak = np.int32(0)
        for start in range(0, out.shape[0], together):
            count = min(together, out.shape[0] - start)
            first, last = start * block, (start + count) * block
            peak = max(peak, widen(values[first:last], bits[first:last], flat))
            if weighted:
                load_importances(importances, first, carray(important, (GROUP,)))
                weigh(lanes, weights, squares, importances.size, first)
            search(lanes, weights, weighted, fits)
            for i in range(count):
                at = start + i
                left[at] = pack(rows[i], fits, i * lanes_a_block, weighted, out[at])
        return np.uint32(peak)

    return quantize


# Rows of fits. SCALE is UNKNOWN where it is ggml's to find; LOW, HIGH and PEAK are the smallest and
# largest value and the largest magnitude; FACTOR is what values were multiplied with for the best
# levels; WEIGHTS are the weights' sums.
SCALE, MINIMUM, LOW, HIGH, WEIGHTS, PEAK, FACTOR = range(7)


@compiled
def keep(fits: Floats, row: int, lane: int, found: Any) -> None:
    """Put what was found of some lanes, from that one on, in a row of fits."""
    store(fits, row * fits.shape[1] + lane, found)


def by_lanes(
    search: Callable[..., Any], sub: int, count: int = 0, wide: int = WIDE
) -> Callable[..., Any]:
    """The search of all lanes, or of count, by one of so many at a time.

    search(x, weight, weighted, fits, lane) takes the values and the weights of those from a lane
    on, each of shape (sub, wide), a column a lane. Without weights, weight is memory to use.
    """
    count, size = count or GROUP // sub, sub * wide

    @compiled
    def search_all(lanes: Floats, weights: Floats, weighted: bool, fits: Floats) -> None:
        x, weight = carray(stack(size), (sub, wide)), carray(stack(size), (sub, wide))
        for lane in range(0, count, wide):
            for i in range(sub):
                store(x, i * wide, column(lanes, lane * sub + i, sub, wide))
                if weighted:
                    store(weight, i * wide, column(weights, lane * sub + i, sub, wide))
            search(x, weight, weighted, fits, lane)

    return search_all


def weigh_by_block(sub: int, times: int, block: int = BLOCK) -> Callable[..., Any]:
    """Weights of ggml's quantizers: small values count less, beside their block's mean square, so
    many times.
    """
    blocks = GROUP // block
    wide = min(WIDE, blocks)

    @compiled
    def weigh(lanes: Floats, weights: Floats, _squares: Floats, _columns: int, _first: int) -> None:
        squares = carray(stack(blocks), (blocks,))
        for first in range(0, blocks, wide):
            sums = filled(ZERO, wide)
            for i in range(block):
                v = column(lanes, first * block + i, block, wide)
                sums += v * v
            store(squares, first, np.float32(times) * sums / np.float32(block))
        for k in range(GROUP // sub):
            weigh_beside(lanes, weights, k, squares[k * sub // block])

    return weigh


@compiled
def weigh_beside(lanes: Floats, weights: Floats, k: int, square: np.float32) -> None:
    """Multiply a lane's weights by the root of its values' squares and a mean square."""
    for i in range(k * lanes.shape[1], (k + 1) * lanes.shape[1], 16):
        v = load(lanes, i, 16)
        store(weights, i, load(weights, i, 16) * roots(square + v * v))


@compiled
def mean_squares(values: Floats, bits: Bits, columns: int) -> Floats:
    """Those of rows of so many columns, each summed in order; several rows at once."""
    rows = (values.size + bits.size) // columns if columns else 0
    result = np.empty(rows, np.float32)
    wide, whole_rows = values.size > 0, rows - rows % ROWS
    for row in range(0, whole_rows, ROWS):
        sums = filled(ZERO, ROWS)
        for i in range(row * columns, (row + 1) * columns):
            v = column(values, i, columns, ROWS) if wide else column(bits, i, columns, ROWS)
            sums += v * v
        store(result, row, sums / np.float32(columns))
    for row in range(whole_rows, rows):
        one = filled(ZERO, 1)
        for i in range(row * columns, (row + 1) * columns):
            w = load(values, i, 1) if wide else load(bits, i, 1)
            one += w * w
        store(result, row, one / np.float32(columns))
    return result
