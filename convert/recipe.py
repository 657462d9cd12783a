"""Recipes: the type of each matrix of a model, as a file keeps them and another is made by them.

A line has a type and a tensor's GGUF name. Lines of the same tensors are equally long whatever the
types are, so that a file's size doesn't hang on which ones its recipe names.
"""

from collections.abc import Iterable, Mapping

from gguf import GGMLQuantizationType

from convert.errors import QuantizationError
from convert.quantization import TYPES

KEY = "llamacli.recipe"
WIDTH = max(map(len, TYPES)) + 1
MOST = 1 << 20  # characters; that of 405B takes 28,000


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
