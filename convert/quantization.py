"""Which quantization type each tensor gets: a named mixture, and what was asked for beyond it.

Source: llama_tensor_get_type and tensor_type_fallback in llama.cpp's src/llama-quant.cpp.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType

from convert.config import LlamaConfig
from convert.errors import QuantizationError
from convert.mixture import EMBEDDINGS, Position, block_type, output_type
from convert.tensors import TensorSpec

Type = GGMLQuantizationType


@dataclass(frozen=True)
class Override:
    """A type for all tensors in whose GGUF name the pattern is found."""

    pattern: re.Pattern[str]
    type: GGMLQuantizationType


@dataclass(frozen=True)
class Origin:
    """The importance matrix that a file is quantized by, as its metadata names it."""

    file: str
    dataset: str
    entries: int
    chunks: int


@dataclass(frozen=True)
class Quantization:
    """A named mixture: the type most tensors get, and GGUF's number for the whole file.

    output and embedding are types asked for the matrices output.weight and token_embd.weight,
    overrides those for others, the first that fits. importance is the matrix it is made by. recipe
    has the type of each matrix by its GGUF name, in place of the mixture's rules; columns what each
    of their columns counts (see recipe), where that is known.
    """

    name: str
    base: GGMLQuantizationType
    file_type: LlamaFileType
    output: GGMLQuantizationType | None = None
    embedding: GGMLQuantizationType | None = None
    overrides: tuple[Override, ...] = ()
    importance: Origin | None = None
    recipe: Mapping[str, GGMLQuantizationType] | None = None
    columns: bytes | None = None

    @property
    def searched(self) -> bool:
        """Whether scales are searched for as far as can be: by a kernel that goes further than
        ggml's, where there is one, and without importances by what columns count."""
        return self.recipe is not None


# The largest first. A name is that of the base type, or begins with it, but for a few of the IQs.
QUANTIZATIONS = {
    name: Quantization(name, base, LlamaFileType[f"MOSTLY_{name}" if name != "F32" else "ALL_F32"])
    for name, base in {
        "F32": Type.F32, "BF16": Type.BF16, "F16": Type.F16, "Q8_0": Type.Q8_0, "Q6_K": Type.Q6_K,
        "Q5_K_M": Type.Q5_K, "Q5_K_S": Type.Q5_K, "Q5_1": Type.Q5_1, "Q5_0": Type.Q5_0,
        "Q4_K_M": Type.Q4_K, "Q4_K_S": Type.Q4_K, "Q4_1": Type.Q4_1, "Q4_0": Type.Q4_0,
        "IQ4_NL": Type.IQ4_NL, "IQ4_XS": Type.IQ4_XS, "Q3_K_L": Type.Q3_K, "Q3_K_M": Type.Q3_K,
        "Q3_K_S": Type.Q3_K, "IQ3_M": Type.IQ3_S, "IQ3_S": Type.IQ3_S, "IQ3_XS": Type.IQ3_S,
        "IQ3_XXS": Type.IQ3_XXS, "Q2_K": Type.Q2_K, "Q2_K_S": Type.Q2_K, "IQ2_M": Type.IQ2_S,
        "IQ2_S": Type.IQ2_XS, "IQ2_XS": Type.IQ2_XS, "IQ2_XXS": Type.IQ2_XXS, "IQ1_M": Type.IQ1_M,
        "IQ1_S": Type.IQ1_S,
    }.items()
}  # fmt: skip
TYPES = {kind.name: kind for kind in sorted({q.base for q in QUANTIZATIONS.values()})}

# Where a row is not a multiple of a K-quant's 256 values, a type with blocks of 32 steps in.
FALLBACKS = {
    **dict.fromkeys(
        (
            Type.IQ1_S, Type.IQ1_M, Type.IQ2_XXS, Type.IQ2_XS, Type.IQ2_S, Type.IQ3_XXS, Type.IQ3_S,
            Type.IQ4_XS,
        ),
        Type.IQ4_NL,
    ),
    Type.Q2_K: Type.Q4_0, Type.Q3_K: Type.Q4_0, Type.Q4_K: Type.Q5_0, Type.Q5_K: Type.Q5_1,
    Type.Q6_K: Type.Q8_0,
}  # fmt: skip
UNQUANTIZED = (Type.BF16, Type.F16, Type.F32)
# Garbage without an importance matrix, by llama.cpp's judgement (tensor_requires_imatrix).
NEED_IMPORTANCE = (
    Type.IQ1_S, Type.IQ1_M, Type.IQ2_XXS, Type.IQ2_XS, Type.IQ2_S, Type.IQ3_XXS,
)  # fmt: skip
ENDS = ("token_embd.weight", "output.weight")


def named_quantization(name: str) -> Quantization:
    """The quantization of that name, in any case. Raises QuantizationError with the known names."""
    try:
        return QUANTIZATIONS[name.upper()]
    except KeyError:
        known = ", ".join(QUANTIZATIONS)
        raise QuantizationError(f"unknown quantization {name!r}; choose one of {known}") from None


def adapted(
    mixture: Quantization,
    *,
    output: str | None = None,
    embedding: str | None = None,
    overrides: Iterable[str] = (),
) -> Quantization:
    """The mixture with types of one's own, named in any case; each override is PATTERN=TYPE.

    Raises QuantizationError for an unknown type or a pattern that isn't a regular expression.
    """
    return replace(
        mixture,
        output=None if output is None else _type(output),
        embedding=None if embedding is None else _type(embedding),
        overrides=tuple(map(_override, overrides)),
    )


def by_recipe(
    name: str,
    types: Mapping[str, GGMLQuantizationType],
    wishes: Quantization | None = None,
    columns: bytes | None = None,
) -> Quantization:
    """A mixture of that name where each matrix has a type of its own, by its GGUF name.

    wishes is one whose output, embedding and overrides go before them. GGUF's number for the file
    is that of the type which most matrices have. columns is that of Quantization.
    """
    (base, _), *_ = Counter(types.values()).most_common(1)
    named = QUANTIZATIONS.get(base.name)
    nearest = named or next(one for one in QUANTIZATIONS.values() if one.base == base)
    return replace(
        wishes or nearest,
        name=name,
        base=base,
        file_type=nearest.file_type,
        recipe=types,
        columns=columns,
    )


def tensor_type(
    quantization: Quantization, tensor: TensorSpec, config: LlamaConfig
) -> GGMLQuantizationType:
    """The type that this tensor is stored in: norms F32, matrices by the mixture's rules."""
    if len(tensor.shape) == 1:
        return Type.F32
    return fitting(_wanted_type(quantization, tensor, config), tensor.columns)


def requires_importance(mixture: Quantization, name: str, kind: GGMLQuantizationType) -> bool:
    """Whether a tensor is unfit in that type without an importance matrix."""
    if name in ENDS:
        return False
    return kind in NEED_IMPORTANCE or (mixture.name == "Q2_K_S" and kind == Type.Q2_K)


def tensor_nbytes(kind: GGMLQuantizationType, parameters: int) -> int:
    """Bytes of that many values (whole blocks) in the given type."""
    block_size, type_size = GGML_QUANT_SIZES[kind]
    return parameters // block_size * type_size


def _type(name: str) -> GGMLQuantizationType:
    try:
        return TYPES[name.upper()]
    except KeyError:
        known = ", ".join(TYPES)
        raise QuantizationError(f"unknown tensor type {name!r}; choose one of {known}") from None


def _override(text: str) -> Override:
    pattern, equals, name = text.rpartition("=")
    if not equals or not pattern:
        raise QuantizationError(f"{text!r} is not PATTERN=TYPE, as ffn_down=Q6_K")
    try:
        return Override(re.compile(pattern), _type(name))
    except re.error as error:
        raise QuantizationError(f"{pattern!r} is no regular expression: {error}") from None


def asked_type(
    quantization: Quantization, tensor: TensorSpec, config: LlamaConfig
) -> GGMLQuantizationType | None:
    """The type that was asked for a matrix beside the mixture, as far as its rows can have it."""
    asked = _asked(quantization, tensor.name, tied=config.tie_word_embeddings)
    return None if asked is None else fitting(asked, tensor.columns)


def _asked(quantization: Quantization, name: str, *, tied: bool) -> GGMLQuantizationType | None:
    """The type that was asked for a tensor; that of the output is a tied embedding's too."""
    end = dict(zip(ENDS, (quantization.embedding, quantization.output), strict=True)).get(name)
    patterns = (one.type for one in quantization.overrides if one.pattern.search(name))
    asked = next(patterns, None) if end is None else end
    return quantization.output if asked is None and tied and name == ENDS[0] else asked


def _wanted_type(
    quantization: Quantization, tensor: TensorSpec, config: LlamaConfig
) -> GGMLQuantizationType:
    """The type by rules and wishes, whether or not rows are whole blocks of it."""
    mixture, base, name = quantization.name, quantization.base, tensor.name
    if (asked := _asked(quantization, name, tied=config.tie_word_embeddings)) is not None:
        return asked
    if quantization.recipe is not None:
        if name not in quantization.recipe:
            raise QuantizationError(f"the recipe has no type for {name}; is it another model's?")
        return quantization.recipe[name]
    tied = config.tie_word_embeddings and name == ENDS[0]
    if base in UNQUANTIZED:
        return base
    if name == "output.weight" or tied:
        return output_type(mixture, base, tensor.columns)
    if name == "token_embd.weight":
        return EMBEDDINGS.get(mixture, base)
    _, layer, part, _ = name.split(".")
    position = Position(
        index=_index(quantization, int(layer), part),
        layers=config.num_hidden_layers,
        grouped=config.num_attention_heads // config.num_key_value_heads >= 4,
        # llama.cpp's own test for LLM_TYPE_70B, where 8 heads share one attn_v.
        large=config.num_hidden_layers == 80
        and config.num_attention_heads != config.num_key_value_heads,
        importance=quantization.importance is not None,
    )
    return block_type(mixture, base, part, position)


def _index(quantization: Quantization, layer: int, part: str) -> int:
    """llama.cpp counts the tensors of a kind that its rules come to, not the layers."""
    if not quantization.overrides:
        return layer
    names = (f"blk.{i}.{part}.weight" for i in range(layer))
    return sum(_asked(quantization, name, tied=False) is None for name in names)


def fitting(kind: GGMLQuantizationType, columns: int) -> GGMLQuantizationType:
    """The type, or the one that steps in where rows aren't whole blocks of it."""
    if columns % GGML_QUANT_SIZES[kind][0] == 0:
        return kind
    kind = FALLBACKS.get(kind, kind)
    return kind if columns % GGML_QUANT_SIZES[kind][0] == 0 else Type.F16
