"""GGUF files of any size whose weights are zeros that take no room on the disk."""

import os
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

from tests.standins.checkpoint import tokenizer
from tests.standins.tiny import add_tokenizer

ALIGNMENT = 32


@dataclass(frozen=True)
class Shape:
    """matrices is the type of those in blocks, embedding that of the embedding and the output."""

    width: int = 1024
    inner: int = 4096
    heads: int = 16
    kv_heads: int = 4
    head_size: int = 64
    blocks: int = 4
    vocabulary: int = 4096
    context: int = 131072
    matrices: Type = Type.Q4_K
    embedding: Type = Type.Q6_K
    tied: bool = False


def write_sparse(path: Path, shape: Shape) -> Path:
    """A model that loads and runs; its logits are all the same."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("Sparse")
    writer.add_file_type(int(gguf.LlamaFileType.MOSTLY_Q4_K_M))
    add_tokenizer(writer, tokenizer(shape.vocabulary))
    writer.add_block_count(shape.blocks)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_feed_forward_length(shape.inner)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_size)
    writer.add_value_length(shape.head_size)
    writer.add_rope_dimension_count(shape.head_size)
    writer.add_rope_freq_base(500000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    sizes = []

    def matrix(name: str, rows: int, columns: int, kind: Type = shape.matrices) -> None:
        block, nbytes = gguf.GGML_QUANT_SIZES[kind]
        row = columns // block * nbytes
        sizes.append(rows * row)
        data_type = np.dtype(np.uint8)
        writer.add_tensor_info(f"{name}.weight", (rows, row), data_type, rows * row, raw_dtype=kind)

    def norm(name: str) -> None:
        sizes.append(4 * shape.width)
        single = np.dtype(np.float32)
        writer.add_tensor_info(f"{name}.weight", (shape.width,), single, 4 * shape.width)

    width, inner = shape.width, shape.inner
    queries, keys = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    matrix("token_embd", shape.vocabulary, width, shape.embedding)
    norm("output_norm")
    if not shape.tied:
        matrix("output", shape.vocabulary, width, shape.embedding)
    for i in range(shape.blocks):
        norm(f"blk.{i}.attn_norm")
        norm(f"blk.{i}.ffn_norm")
        matrix(f"blk.{i}.attn_q", queries, width)
        matrix(f"blk.{i}.attn_k", keys, width)
        matrix(f"blk.{i}.attn_v", keys, width)
        matrix(f"blk.{i}.attn_output", width, queries)
        matrix(f"blk.{i}.ffn_gate", inner, width)
        matrix(f"blk.{i}.ffn_up", inner, width)
        matrix(f"blk.{i}.ffn_down", width, inner)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    padded = [-(-size // ALIGNMENT) * ALIGNMENT for size in (path.stat().st_size, *sizes)]
    os.truncate(path, sum(padded))
    return path
