"""A LoRA pair: two low matrices whose product, scaled, is added to a matrix of the model.

Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models": W + scale · B·A.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from convert.errors import CheckpointError
from convert.safetensors import ITEM_SIZES, StoredTensor


@dataclass(frozen=True)
class Pair:
    """a is of shape (rank, columns), b of (rows, rank); scale is what their product is times.

    of_embedding: the pair is of the transposed matrix, as PEFT has it for an embedding: a is of
    shape (rank, rows), b of (columns, rank).
    """

    module: str
    a: StoredTensor
    b: StoredTensor
    scale: float
    of_embedding: bool = False

    @property
    def rank(self) -> int:
        return self.a.shape[0]

    def product(self, first: int, count: int) -> NDArray[np.float32]:
        """scale · B·A for some rows of the model's matrix, float32 of shape (count, columns).

        Raises CheckpointError where it isn't finite.
        """
        if self.of_embedding:
            left, right = read_columns(self.a, first, count).T, read_rows(self.b).T
        else:
            left, right = read_rows(self.b, first, count), read_rows(self.a)
        with np.errstate(over="ignore", invalid="ignore"):
            result: NDArray[np.float32] = left @ right * np.float32(self.scale)
        if not np.isfinite(result).all():
            fault = f"the pair of {self.module} makes values that are NaN or infinite"
            raise CheckpointError(fault, file=self.a.file.name)
        return result


def read_rows(
    tensor: StoredTensor, first: int = 0, count: int | None = None
) -> NDArray[np.float32]:
    """Rows of a stored matrix as float32, exactly; all of them where no count is given."""
    rows, columns = tensor.shape
    count = rows - first if count is None else count
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
