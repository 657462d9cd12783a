"""How much each column of a model's matrices counts, as a file made for a size keeps it.

A column has a byte, whose steps are a sixteenth of an octave. The gradients tell it from a few
tokens (fisher), so that the root is taken: columns that these didn't need aren't given up.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from gguf import GGMLQuantizationType
from numpy.typing import NDArray

from convert.errors import QuantizationError
from convert.kernels import SEARCHED
from convert.tensors import TensorSpec

COLUMNS_KEY = "llamacli.recipe.columns"
OCTAVE, ONE = 16, 128  # steps, and the byte for what counts as the mean does

Weights = Mapping[str, NDArray[np.float32]]  # by GGUF names, of shape (columns,)


def packed_columns(matrices: Sequence[TensorSpec], information: Weights) -> bytes:
    """The bytes of these matrices, of what a squared error in each of their columns costs."""
    return b"".join(_packed(information[spec.name]) for spec in matrices)


def columns_size(matrices: Sequence[TensorSpec]) -> int:
    """How many bytes that are."""
    return sum(spec.columns for spec in matrices)


def unpacked_columns(matrices: Sequence[TensorSpec], packed: bytes | None) -> Weights:
    """The columns' weights; none where there are no bytes.

    Raises QuantizationError where they are of another model.
    """
    if packed is None:
        return {}
    if len(packed) != (size := columns_size(matrices)):
        fault = f"it has {len(packed)} columns' weights, and {size} columns are here"
        raise QuantizationError(f"the recipe is of another model: {fault}")
    steps = np.frombuffer(packed, np.uint8).astype(np.float64) - ONE
    weights, first = np.exp2(steps / OCTAVE).astype(np.float32), 0
    by_name = {}
    for spec in matrices:
        by_name[spec.name] = weights[first : first + spec.columns]
        first += spec.columns
    return by_name


def weights_for(
    kind: GGMLQuantizationType, spec: TensorSpec, importances: Weights, columns: Weights
) -> NDArray[np.float32]:
    """What a matrix' errors are weighed by in that type, where scales are searched for.

    Its columns' weights are for types that a kernel of ours searches scales for. Others take its
    importances, and where there are none the roots of the columns' weights: fewer bits may suffer
    from what so few tokens tell (python -m bench.quality, both models).
    """
    if kind in SEARCHED and spec.name in columns:
        return columns[spec.name]
    if spec.name in importances:
        return importances[spec.name]
    if spec.name in columns:
        return np.sqrt(columns[spec.name])
    return np.ones(spec.columns, np.float32)


def _packed(information: NDArray[np.float32]) -> bytes:
    values = information.astype(np.float64)
    mean = values.mean()
    if not mean > 0:
        return bytes([ONE]) * values.size
    steps = OCTAVE * np.log2(np.maximum(values / mean, 1e-30)) / 2
    packed: NDArray[np.uint8] = np.clip(np.rint(ONE + steps), 0, 255).astype(np.uint8)
    return packed.tobytes()
