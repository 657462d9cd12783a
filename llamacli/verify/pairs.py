"""A tensor of the checkpoint beside the one of the file that should be its copy."""

from dataclasses import dataclass

import numpy as np
from gguf import GGMLQuantizationType
from numpy.typing import NDArray

import convert
from llamacli.gguf import TensorInfo
from llamacli.verify.measure import Limits, Sums, limits


@dataclass(frozen=True)
class Pair:
    """A tensor of the checkpoint and the one of the file that should be its copy."""

    spec: convert.TensorSpec
    stored: convert.StoredTensor
    info: TensorInfo
    file: convert.WeightFile
    importances: bool

    @property
    def limits(self) -> Limits:
        return limits(self.info.type, self.stored.dtype, self.importances)

    def original(self, first: int, rows: int) -> NDArray[np.float32]:
        """Rows of the checkpoint's tensor in ggml's order, float32; heads must be whole."""
        values = read_rows(self.spec, self.stored, first, rows)
        if self.spec.head_dim is None:
            return values
        shaped = values[0] if len(self.spec.shape) == 1 else values
        return np.asarray(convert.permute_heads(shaped, self.spec.head_dim), np.float32).reshape(
            values.shape
        )

    def copy(self, first: int, rows: int) -> NDArray[np.float32]:
        """Rows of the file's tensor, float32."""
        kind = self.info.type
        nbytes = self.spec.columns // kind.block * kind.nbytes
        data = self.file.read(self.info.offset + first * nbytes, rows * nbytes)
        return convert.dequantize(GGMLQuantizationType[kind.name], data).reshape(
            rows, self.spec.columns
        )


@dataclass(frozen=True)
class Compared:
    pair: Pair
    sums: Sums

    @property
    def good(self) -> bool:
        bounds, sums = self.pair.limits, self.sums
        return (
            sums.relative(bounds.floor) <= bounds.relative
            and sums.bad == 0
            and abs(sums.scale - 1) <= bounds.scale_of(sums.values)
        )


def read_rows(
    spec: convert.TensorSpec, stored: convert.StoredTensor, first: int, rows: int
) -> NDArray[np.float32]:
    """Rows of a checkpoint's tensor as it stores them, float32 of shape (rows, columns)."""
    nbytes = spec.columns * convert.ITEM_SIZES[stored.dtype]
    data = stored.file.read(stored.offset + first * nbytes, rows * nbytes)
    return convert.as_float32(data, stored.dtype).reshape(rows, spec.columns)
