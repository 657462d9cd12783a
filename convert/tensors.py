"""The tensors of a Llama model: their Hugging Face names and shapes, and their GGUF names.

And rotary frequencies, whose llama3 scaling travels as the tensor rope_freqs.weight.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from convert.config import LlamaConfig

ROPE_FACTORS = "rope_freqs.weight"


@dataclass(frozen=True)
class TensorSpec:
    """One tensor as config.json implies it.

    shape is row-major, as in safetensors. head_dim is set for q_proj and k_proj alone, whose rows,
    and the values of whose biases, are reordered (see permute_heads).
    """

    source: str
    name: str
    shape: tuple[int, ...]
    head_dim: int | None = None

    @property
    def rows(self) -> int:
        return self.shape[0] if len(self.shape) == 2 else 1

    @property
    def columns(self) -> int:
        return self.shape[-1]

    @property
    def parameters(self) -> int:
        return self.rows * self.columns


def llama_tensors(config: LlamaConfig) -> Iterator[TensorSpec]:
    """Every weight of the checkpoint, in the order of the computation."""
    hidden = config.hidden_size
    yield TensorSpec("model.embed_tokens.weight", "token_embd.weight", (config.vocab_size, hidden))
    for i in range(config.num_hidden_layers):
        for spec in _layer(config):
            source, name = f"model.layers.{i}.{spec.source}", f"blk.{i}.{spec.name}"
            yield replace(spec, source=source, name=name)
    yield TensorSpec("model.norm.weight", "output_norm.weight", (hidden,))
    if not config.tie_word_embeddings:
        yield TensorSpec("lm_head.weight", "output.weight", (config.vocab_size, hidden))


def _layer(config: LlamaConfig) -> Iterator[TensorSpec]:
    """The tensors of one layer, by their names within it."""
    hidden, inner, head = config.hidden_size, config.intermediate_size, config.head_dim
    queries, keys = config.num_attention_heads * head, config.num_key_value_heads * head

    def matrix(
        source: str, name: str, rows: int, columns: int, bias: bool, head_dim: int | None = None
    ) -> Iterator[TensorSpec]:
        yield TensorSpec(f"{source}.weight", f"{name}.weight", (rows, columns), head_dim)
        if bias:
            yield TensorSpec(f"{source}.bias", f"{name}.bias", (rows,), head_dim)

    attention, mlp = config.attention_bias, config.mlp_bias
    yield TensorSpec("input_layernorm.weight", "attn_norm.weight", (hidden,))
    yield from matrix("self_attn.q_proj", "attn_q", queries, hidden, attention, head)
    yield from matrix("self_attn.k_proj", "attn_k", keys, hidden, attention, head)
    yield from matrix("self_attn.v_proj", "attn_v", keys, hidden, attention)
    yield from matrix("self_attn.o_proj", "attn_output", hidden, queries, attention)
    yield TensorSpec("post_attention_layernorm.weight", "ffn_norm.weight", (hidden,))
    yield from matrix("mlp.gate_proj", "ffn_gate", inner, hidden, mlp)
    yield from matrix("mlp.up_proj", "ffn_up", inner, hidden, mlp)
    yield from matrix("mlp.down_proj", "ffn_down", hidden, inner, mlp)


def permute_heads(rows: NDArray[np.generic], head_dim: int) -> NDArray[np.generic]:
    """Reorder the rows of whole heads from Hugging Face's order to ggml's, shape kept.

    rows is a matrix, or the vector of a bias, whose values are reordered as rows would be.
    Hugging Face rotates dimension j with j + head_dim/2, ggml 2j with 2j + 1, so rows j and
    j + head_dim/2 of each head become neighbours.
    """
    columns = rows.shape[-1] if rows.ndim == 2 else 1
    heads = rows.reshape(-1, 2, head_dim // 2, columns)
    return np.ascontiguousarray(heads.swapaxes(1, 2)).reshape(rows.shape)


@np.errstate(all="ignore")
def inverse_frequencies(config: LlamaConfig) -> NDArray[np.float32]:
    """theta ** (-2i / head_dim) for i in 0 … head_dim/2 - 1, float32, radians a position.

    NumPy's float32 powers are up to two units off in the last place; PyTorch's, which transformers
    and llama.cpp's converter take, are those of float64, rounded.
    """
    exponents = np.arange(0, config.head_dim, 2, dtype=np.float32) / np.float32(config.head_dim)
    powers = (np.float64(config.rope_theta) ** exponents.astype(np.float64)).astype(np.float32)
    return np.float32(1) / powers


@np.errstate(all="ignore")
def frequency_factors(config: LlamaConfig) -> NDArray[np.float32] | None:
    """What each frequency is divided by under llama3 scaling, float32 of head_dim/2; else None.

    Meta's reference (llama-models, `apply_scaling`): wavelengths beyond the low-frequency bound
    are stretched by the whole factor, those below the high-frequency bound stay, and between the
    two the frequency is interpolated linearly. llama.cpp divides by rope_freqs.weight. Every step
    is in float32, as llama.cpp's converter computes it: PyTorch divides a number by a tensor as the
    number times the reciprocal.
    """
    scaling = config.rope_scaling
    if scaling is None or scaling.kind != "llama3":
        return None
    one = np.float32(1)
    context = np.float32(scaling.original_max_position_embeddings)
    low, high = np.float32(scaling.low_freq_factor), np.float32(scaling.high_freq_factor)
    factor = np.float32(scaling.factor)
    wavelengths = one / inverse_frequencies(config) * np.float32(2 * math.pi)
    smooth = (one / wavelengths * context - low) / (high - low)
    between = one / ((one - smooth) / factor + smooth)
    stretched = np.where(wavelengths > context / low, factor, between)
    return np.where(wavelengths < context / high, one, stretched).astype(np.float32)
