"""Tiny GGUF models with random weights, made in a moment, for tests of the runtime."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from tests.standins.checkpoint import byte_letters, tokenizer as made_up_tokenizer

WIDTH, INNER, HEADS, KV_HEADS, HEAD_SIZE, BLOCKS = 64, 128, 4, 2, 16, 2
VOCABULARY = 1024
CONTEXT = 1024


def write_model(
    path: Path,
    *,
    tokenizer: Mapping[str, Any] | None = None,
    template: str | None = None,
    weights: bool = True,
    pre: str = "llama-bpe",
    seed: int = 0,
    context: int = CONTEXT,
    change: Callable[[gguf.GGUFWriter], None] | None = None,
) -> Path:
    """A GGUF file with a made-up tokenizer of 1,024 tokens, or the given tokenizer.json's.

    pre is the pre-tokenizer's GGUF name. Without weights it holds the vocabulary alone. change
    gets the writer before it writes.
    """
    raw = tokenizer or made_up_tokenizer(VOCABULARY)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("Tiny")
    writer.add_file_type(int(gguf.LlamaFileType.ALL_F32))
    add_tokenizer(writer, raw, pre)
    if template is not None:
        writer.add_chat_template(template)
    if weights:
        size = len(raw["model"]["vocab"]) + len(raw["added_tokens"])
        add_weights(writer, size, np.random.default_rng(seed), context)
    if change is not None:
        change(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def read_tokenizer(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return loaded


def add_tokenizer(writer: gguf.GGUFWriter, raw: Mapping[str, Any], pre: str = "llama-bpe") -> None:
    texts = {token: text for text, token in raw["model"]["vocab"].items()}
    special = {entry["id"]: entry["content"] for entry in raw["added_tokens"]}
    ids = {text: token for token, text in special.items()}
    size = len(texts | special)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list([special.get(i, texts.get(i, "")) for i in range(size)])
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_token_types([control if i in special else normal for i in range(size)])
    merges = raw["model"]["merges"]
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    writer.add_bos_token_id(ids["<|begin_of_text|>"])
    writer.add_eos_token_id(ids["<|eot_id|>"])
    writer.add_add_bos_token(True)


def add_weights(
    writer: gguf.GGUFWriter, vocabulary: int, rng: np.random.Generator, context: int = CONTEXT
) -> None:
    writer.add_block_count(BLOCKS)
    writer.add_context_length(context)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(HEAD_SIZE)
    writer.add_rope_freq_base(500000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(vocabulary)

    def matrix(name: str, rows: int, columns: int) -> None:
        values = rng.standard_normal((rows, columns), dtype=np.float32) * np.float32(0.2)
        writer.add_tensor(name, values)

    def norm(name: str) -> None:
        writer.add_tensor(name, np.ones(WIDTH, dtype=np.float32))

    matrix("token_embd.weight", vocabulary, WIDTH)
    matrix("output.weight", vocabulary, WIDTH)
    norm("output_norm.weight")
    for i in range(BLOCKS):
        norm(f"blk.{i}.attn_norm.weight")
        norm(f"blk.{i}.ffn_norm.weight")
        matrix(f"blk.{i}.attn_q.weight", HEADS * HEAD_SIZE, WIDTH)
        matrix(f"blk.{i}.attn_k.weight", KV_HEADS * HEAD_SIZE, WIDTH)
        matrix(f"blk.{i}.attn_v.weight", KV_HEADS * HEAD_SIZE, WIDTH)
        matrix(f"blk.{i}.attn_output.weight", WIDTH, HEADS * HEAD_SIZE)
        matrix(f"blk.{i}.ffn_gate.weight", INNER, WIDTH)
        matrix(f"blk.{i}.ffn_up.weight", INNER, WIDTH)
        matrix(f"blk.{i}.ffn_down.weight", WIDTH, INNER)


__all__ = ["byte_letters", "made_up_tokenizer", "read_tokenizer", "write_model"]
