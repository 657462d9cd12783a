"""Values of stored tensors as float32, some rows or columns at a time."""

import math
from concurrent.futures import Future

import numpy as np
from numpy.typing import NDArray

from convert.pool import Pool, some_ahead
from convert.safetensors import ITEM_SIZES, StoredTensor, reading

COMPARED = 1 << 20  # values of each of two tensors at a time


def read_rows(
    tensor: StoredTensor, first: int = 0, count: int | None = None
) -> NDArray[np.float32]:
    """Rows of a stored matrix, or a vector as one, float32 of shape (count, columns), exactly.

    All from the first on where no count is given.
    """
    *rows, columns = tensor.shape
    count = math.prod(rows) - first if count is None else count
    row = columns * ITEM_SIZES[tensor.dtype]
    raw = tensor.file.read(tensor.offset + first * row, count * row)
    return as_float32(raw, tensor.dtype).reshape(count, columns)


def read_columns(tensor: StoredTensor, first: int, count: int) -> NDArray[np.float32]:
    """Some columns of a stored matrix of few rows."""
    rows, columns = tensor.shape
    item = ITEM_SIZES[tensor.dtype]
    starts = (tensor.offset + (row * columns + first) * item for row in range(rows))
    parts = [as_float32(tensor.file.read(at, count * item), tensor.dtype) for at in starts]
    return np.stack(parts)


def as_float32(raw: bytes | bytearray | memoryview, dtype: str) -> NDArray[np.float32]:
    """The values of BF16, F16 or F32 bytes, exactly."""
    if dtype == "BF16":
        bits = np.frombuffer(raw, "<u2").astype(np.uint32) << np.uint32(16)
        return bits.view(np.float32)
    kind = np.float16 if dtype == "F16" else np.float32
    return np.frombuffer(raw, kind).astype(np.float32, copy=False)


def are_equal(one: StoredTensor, other: StoredTensor) -> bool:
    """Whether two matrices of one shape have the same values; read until they differ."""
    rows, columns = one.shape
    step = max(1, COMPARED // columns)
    pool = Pool(one.file.parallel)

    def equal(first: int) -> bool:
        count = min(step, rows - first)
        return np.array_equal(read_rows(one, first, count), read_rows(other, first, count))

    def start(first: int) -> Future[bool]:
        return pool.submit(equal, first)

    with reading((one.file, other.file), pool):
        return all(same for _, same in some_ahead(start, range(0, rows, step), one.file.parallel))
