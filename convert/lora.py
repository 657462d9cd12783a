"""A LoRA pair: two low matrices whose product, scaled, is added to a matrix of the model.

Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models": W + scale · B·A.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from convert.errors import CheckpointError
from convert.safetensors import StoredTensor
from convert.stored import read_columns, read_rows


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
