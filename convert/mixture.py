"""The named mixtures: which type each kind of tensor gets, by llama.cpp's rules, as pure functions.

Source: llama_tensor_get_type_impl in llama.cpp's src/llama-quant.cpp, for the Llama architecture.
"""

from collections.abc import Callable
from dataclasses import dataclass

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

Type = GGMLQuantizationType


@dataclass(frozen=True)
class Position:
    """What the rules look at, beside a tensor's kind.

    index is how many tensors of this kind got their type by these rules before it, of as many as
    there are layers: its layer, where none was given a type of its own. grouped: four or more
    query heads share a key head. large: llama.cpp takes the model for the 70B one. importance: the
    file is quantized by an importance matrix.
    """

    index: int
    layers: int
    grouped: bool
    large: bool
    importance: bool

    @property
    def in_first_eighth(self) -> bool:
        """In the first eighth of the layers."""
        return self.index < self.layers // 8

    @property
    def in_middle(self) -> bool:
        """In neither the first nor the last eighth."""
        return self.layers // 8 <= self.index < 7 * self.layers // 8

    @property
    def more_bits(self) -> bool:
        """In the first or last eighth, or every third between them."""
        return not self.in_middle or (self.index - self.layers // 8) % 3 == 2


LOWEST = ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M")
LARGER_LOWEST = ("IQ2_S", "IQ2_M")  # their exceptions are IQ3_S, those of the others Q2_K
EMBEDDINGS = {  # that aren't the output matrix, too, where it isn't the base type
    **dict.fromkeys(("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS"), Type.Q2_K),
    **dict.fromkeys(("IQ2_S", "IQ2_M", "IQ3_XXS"), Type.IQ3_S),
}
# The same in all layers, where it isn't the base type.
TABLES = {
    **{part: {"IQ3_XS": Type.IQ3_XXS, "IQ3_XXS": Type.IQ2_S} for part in ("attn_q", "attn_k")},
    "attn_output": {
        "IQ1_S": Type.IQ2_XXS, "IQ1_M": Type.IQ2_XXS, "IQ2_S": Type.IQ3_S, "IQ2_M": Type.IQ3_S,
        "Q2_K": Type.Q3_K, "IQ3_XXS": Type.IQ3_S, "Q3_K_M": Type.Q4_K, "Q3_K_L": Type.Q5_K,
        "IQ3_M": Type.Q4_K,
    },
}  # fmt: skip


def output_type(name: str, base: Type, columns: int) -> Type:
    """The type of the output matrix, or of the embedding where both are one."""
    if columns % GGML_QUANT_SIZES[base][0]:
        return Type.Q8_0
    if name in LOWEST or name == "IQ3_XXS":
        return Type.Q5_K
    return base if base == Type.Q8_0 else Type.Q6_K


def block_type(name: str, base: Type, part: str, position: Position) -> Type:
    """The type of a matrix in a block; part is its name's third word, as attn_v."""
    if part in RULES:
        return RULES[part](name, base, position)
    return TABLES.get(part, {}).get(name, base)


def _value_type(name: str, base: Type, at: Position) -> Type:
    if name in LOWEST:
        return Type.Q4_K if at.grouped else _exception(name)
    kind = _plain_value_type(name, base, at)
    return Type.Q5_K if at.large and kind in (Type.Q3_K, Type.Q4_K) else kind


def _plain_value_type(name: str, base: Type, at: Position) -> Type:
    match name:
        case "Q2_K":
            return Type.Q4_K if at.grouped else Type.Q3_K
        case "IQ3_XXS" if not at.grouped:
            return Type.IQ3_XXS if at.importance else Type.IQ3_S
        case "Q2_K_S" | "IQ3_XXS" | "IQ3_XS" | "IQ3_S" if at.grouped:
            return Type.Q4_K
        case "IQ3_M":
            return Type.Q4_K
        case "Q3_K_M":
            return Type.Q5_K if at.index < 2 else Type.Q4_K
        case "Q3_K_L":
            return Type.Q5_K
        case "IQ4_NL" | "IQ4_XS" if at.grouped:
            return Type.Q5_K
        case "Q4_K_M" | "Q5_K_M" if at.more_bits:
            return Type.Q6_K
        case "Q4_K_S" if at.index < 4:
            return Type.Q5_K
    return base


def _down_type(name: str, base: Type, at: Position) -> Type:
    match name:
        case _ if name in LOWEST:
            return _exception(name) if at.in_first_eighth else base
        case "Q2_K":
            return Type.Q3_K
        case "Q2_K_S" | "IQ3_M" if at.in_first_eighth:
            return Type.Q4_K
        case "IQ3_XXS" if not at.importance:
            return Type.Q4_K if at.in_first_eighth else Type.Q3_K
        case "Q3_K_M":
            return Type.Q5_K if at.index < at.layers // 16 else Type.Q4_K
        case "Q3_K_L":
            return Type.Q5_K
        case "Q4_K_M" | "Q5_K_M" if at.more_bits:
            return Type.Q6_K
        case "IQ4_NL" | "IQ4_XS" if at.in_first_eighth and not at.importance:
            return Type.Q5_K
        case "Q4_K_S" if at.in_first_eighth:
            return Type.Q5_K
        case "Q4_0" | "Q5_0" if at.in_first_eighth and at.importance:
            return Type.Q4_1 if name == "Q4_0" else Type.Q5_1
    return base


def _exception(name: str) -> Type:
    return Type.IQ3_S if name in LARGER_LOWEST else Type.Q2_K


def _gate_or_up_type(name: str, base: Type, at: Position) -> Type:
    return Type.IQ3_XXS if name == "IQ3_XS" and at.in_middle else base


RULES: dict[str, Callable[[str, Type, Position], Type]] = {
    "attn_v": _value_type,
    "ffn_gate": _gate_or_up_type,
    "ffn_up": _gate_or_up_type,
    "ffn_down": _down_type,
}
