"""Which quantization type each tensor gets: llama.cpp's rules, as pure functions.

Source: llama_tensor_get_type_impl and tensor_type_fallback in llama.cpp's src/llama-quant.cpp.
"""

from dataclasses import dataclass

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType

from convert.config import LlamaConfig
from convert.errors import QuantizationError
from convert.tensors import TensorSpec

Type = GGMLQuantizationType


@dataclass(frozen=True)
class Quantization:
    """A named mixture: the type most tensors get, and GGUF's number for the whole file."""

    name: str
    base: GGMLQuantizationType
    file_type: LlamaFileType


QUANTIZATIONS = {
    quantization.name: quantization
    for quantization in (
        Quantization("Q4_K_M", Type.Q4_K, LlamaFileType.MOSTLY_Q4_K_M),
        Quantization("Q4_K_S", Type.Q4_K, LlamaFileType.MOSTLY_Q4_K_S),
        Quantization("Q5_K_M", Type.Q5_K, LlamaFileType.MOSTLY_Q5_K_M),
        Quantization("Q6_K", Type.Q6_K, LlamaFileType.MOSTLY_Q6_K),
        Quantization("Q8_0", Type.Q8_0, LlamaFileType.MOSTLY_Q8_0),
        Quantization("BF16", Type.BF16, LlamaFileType.MOSTLY_BF16),
        Quantization("F16", Type.F16, LlamaFileType.MOSTLY_F16),
        Quantization("F32", Type.F32, LlamaFileType.ALL_F32),
    )
}

# Where a row is not a multiple of a K-quant's 256 values, a type with blocks of 32 steps in.
FALLBACKS = {Type.Q4_K: Type.Q5_0, Type.Q5_K: Type.Q5_1, Type.Q6_K: Type.Q8_0}
UNQUANTIZED = (Type.BF16, Type.F16, Type.F32)


def quantization(name: str) -> Quantization:
    """The quantization of that name, in any case. Raises QuantizationError with the known names."""
    try:
        return QUANTIZATIONS[name.upper()]
    except KeyError:
        known = ", ".join(QUANTIZATIONS)
        raise QuantizationError(f"unknown quantization {name!r}; choose one of {known}") from None


def tensor_type(
    quantization: Quantization, tensor: TensorSpec, config: LlamaConfig
) -> GGMLQuantizationType:
    """The type that this tensor is stored in: norms F32, matrices by the mixture's rules."""
    if len(tensor.shape) == 1:
        return Type.F32
    if quantization.base in UNQUANTIZED:
        return quantization.base
    return _fitting(_mixture_type(quantization, tensor, config), tensor.columns)


def tensor_nbytes(kind: GGMLQuantizationType, parameters: int) -> int:
    """Bytes of that many values (whole blocks) in the given type."""
    block_size, type_size = GGML_QUANT_SIZES[kind]
    return parameters // block_size * type_size


def _mixture_type(
    quantization: Quantization, tensor: TensorSpec, config: LlamaConfig
) -> GGMLQuantizationType:
    base, name = quantization.base, tensor.name
    tied = config.tie_word_embeddings and name == "token_embd.weight"
    if name == "output.weight" or tied:
        if tensor.columns % GGML_QUANT_SIZES[base][0]:
            return Type.Q8_0
        return base if base == Type.Q8_0 else Type.Q6_K
    if name == "token_embd.weight":
        return base
    _, layer, part, _ = name.split(".")
    if part == "attn_v":
        return _value_type(quantization, int(layer), config)
    if part == "ffn_down":
        return _down_type(quantization, int(layer), config.num_hidden_layers)
    return base


def _value_type(
    quantization: Quantization, layer: int, config: LlamaConfig
) -> GGMLQuantizationType:
    kind = quantization.base
    if quantization.name in ("Q4_K_M", "Q5_K_M") and _more_bits(layer, config.num_hidden_layers):
        kind = Type.Q6_K
    elif quantization.name == "Q4_K_S" and layer < 4:
        kind = Type.Q5_K
    if kind == Type.Q4_K and _is_70b(config):
        kind = Type.Q5_K
    return kind


def _down_type(quantization: Quantization, layer: int, layers: int) -> GGMLQuantizationType:
    if quantization.name in ("Q4_K_M", "Q5_K_M") and _more_bits(layer, layers):
        return Type.Q6_K
    if quantization.name == "Q4_K_S" and layer < layers // 8:
        return Type.Q5_K
    return quantization.base


def _more_bits(layer: int, layers: int) -> bool:
    """The first and last eighth of the layers, and every third between them."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


def _is_70b(config: LlamaConfig) -> bool:
    """llama.cpp's own test for LLM_TYPE_70B, where 8 heads share one attn_v."""
    return config.num_hidden_layers == 80 and (
        config.num_attention_heads != config.num_key_value_heads
    )


def _fitting(kind: GGMLQuantizationType, columns: int) -> GGMLQuantizationType:
    if columns % GGML_QUANT_SIZES[kind][0] == 0:
        return kind
    kind = FALLBACKS.get(kind, kind)
    return kind if columns % GGML_QUANT_SIZES[kind][0] == 0 else Type.F16
