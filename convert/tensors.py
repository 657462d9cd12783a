"""The tensors of a Llama model: their Hugging Face names and shapes, and their GGUF names."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from convert.config import LlamaConfig


@dataclass(frozen=True)
class TensorSpec:
    """One tensor as config.json implies it.

    shape is row-major, as in safetensors. head_dim is set for q_proj and k_proj alone, whose
    rows are reordered (see permute_heads).
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
    hidden, inner = config.hidden_size, config.intermediate_size
    queries = config.num_attention_heads * config.head_dim
    keys = config.num_key_value_heads * config.head_dim
    yield TensorSpec("model.embed_tokens.weight", "token_embd.weight", (config.vocab_size, hidden))
    for i in range(config.num_hidden_layers):
        layer, block = f"model.layers.{i}.", f"blk.{i}."

        def spec(
            source: str,
            name: str,
            *shape: int,
            head_dim: int | None = None,
            layer: str = layer,
            block: str = block,
        ) -> TensorSpec:
            return TensorSpec(f"{layer}{source}.weight", f"{block}{name}.weight", shape, head_dim)

        yield spec("input_layernorm", "attn_norm", hidden)
        yield spec("self_attn.q_proj", "attn_q", queries, hidden, head_dim=config.head_dim)
        yield spec("self_attn.k_proj", "attn_k", keys, hidden, head_dim=config.head_dim)
        yield spec("self_attn.v_proj", "attn_v", keys, hidden)
        yield spec("self_attn.o_proj", "attn_output", hidden, queries)
        yield spec("post_attention_layernorm", "ffn_norm", hidden)
        yield spec("mlp.gate_proj", "ffn_gate", inner, hidden)
        yield spec("mlp.up_proj", "ffn_up", inner, hidden)
        yield spec("mlp.down_proj", "ffn_down", hidden, inner)
    yield TensorSpec("model.norm.weight", "output_norm.weight", (hidden,))
    if not config.tie_word_embeddings:
        yield TensorSpec("lm_head.weight", "output.weight", (config.vocab_size, hidden))


def permute_heads(rows: NDArray[np.generic], head_dim: int) -> NDArray[np.generic]:
    """Reorder the rows of whole heads from Hugging Face's order to ggml's, shape kept.

    Hugging Face rotates dimension j with j + head_dim/2, ggml 2j with 2j + 1, so rows j and
    j + head_dim/2 of each head become neighbours.
    """
    heads = rows.reshape(-1, 2, head_dim // 2, rows.shape[-1])
    return np.ascontiguousarray(heads.swapaxes(1, 2)).reshape(rows.shape)
