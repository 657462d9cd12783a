"""Recipes: the type of each matrix of a model, as a file keeps them and another is made by them.

A line has a type and a tensor's GGUF name. Lines of the same tensors are equally long whatever the
types are, so that a file's size doesn't hang on which ones its recipe names.

How much each column counts has a byte, whose steps are a sixteenth of an octave. The gradients tell
it from a few tokens (fisher), so that the root is taken: columns that these didn't need aren't
given up.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from gguf import GGMLQuantizationType
from numpy.typing import NDArray

from convert.errors import QuantizationError
from convert.kernels import SEARCHED
from convert.quantization import TYPES
from convert.tensors import TensorSpec

KEY = "llamacli.recipe"
WIDTH = max(map(len, TYPES)) + 1
MOST = 1 << 20  # characters; that of 405B takes 28,000
COLUMNS_KEY = "llamacli.recipe.columns"
OCTAVE, ONE = 16, 128  # steps, and the byte for what counts as the mean does

Weights = Mapping[str, NDArray[np.float32]]  # by GGUF names, of shape (columns,)


def recipe_text(types: Iterable[tuple[str, GGMLQuantizationType]]) -> str:
    """The recipe of (GGUF name, type)."""
    return "".join(f"{kind.name:<{WIDTH}}{name}\n" for name, kind in types)


def parse_recipe(text: str, file: str = "the recipe") -> Mapping[str, GGMLQuantizationType]:
    """Types by GGUF names; empty lines and those that begin with # are left out.

    Raises QuantizationError naming file and line.
    """
    if len(text) > MOST:
        raise QuantizationError(f"it has {len(text)} characters, no recipe", file=file)
    types: dict[str, GGMLQuantizationType] = {}
    for number, line in enumerate(text.split("\n"), 1):
        words = line.split()
        if not words or line.startswith("#"):
            continue
        if len(words) != 2 or words[0].upper() not in TYPES:
            fault = f"line {number} is {line[:80]!r}, not a type and a tensor's name"
            raise QuantizationError(fault, file=file)
        if words[1] in types:
            raise QuantizationError(f"line {number} names {words[1]} again", file=file)
        types[words[1]] = TYPES[words[0].upper()]
    if not types:
        raise QuantizationError("it names no tensor", file=file)
    return types


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
