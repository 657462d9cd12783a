"""Blocks with their scales mended: as large as their values, in each type that has scales."""

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as Type
from numpy.typing import NDArray

from convert.kernels import dequantize, ggml_kernel, searched_kernel
from convert.kernels.comparison import importances, samples
from convert.kernels.unbiased import PLACES

VALUES = 64 * next(samples(64))[1].reshape(-1)  # so that no half is subnormal
CHEAP = [kind for kind in PLACES if not kind.name.startswith(("IQ1", "IQ2", "IQ3_X"))]


def growth(kind: Type, mended: bool, weights: NDArray[np.float32]) -> NDArray[np.float64]:
    """By how much of themselves blocks of natural weights are larger when they come back."""
    block, nbytes = GGML_QUANT_SIZES[kind]
    out = np.empty(VALUES.size // block * nbytes, np.uint8)
    (searched_kernel if mended else ggml_kernel)(kind)(VALUES, out, weights)
    back = dequantize(kind, out).reshape(-1, block).astype(np.float64)
    values = VALUES.reshape(-1, block).astype(np.float64)
    weighed = values * np.resize(weights, VALUES.size).reshape(-1, block)
    grown: NDArray[np.float64] = (weighed * back).sum(axis=1) / (weighed * values).sum(axis=1)
    return grown - 1


@pytest.mark.parametrize("kind", CHEAP)
def test_no_block_is_larger_or_smaller_than_its_values(kind: Type) -> None:
    """But for the last places of halves."""
    weights = importances(1024)
    mended, before = (np.abs(growth(kind, mended, weights)) for mended in (True, False))
    assert np.quantile(mended, 0.99) < 2e-3 and mended.mean() < before.mean() / 4
