"""Models that are sound but odd: unusual sizes and types, and weights of random bytes."""

import math
from pathlib import Path
from random import Random

import gguf
import numpy as np

from llamacli.gguf.check import LlamaShape, _expected_tensors
from llamacli.gguf.contents import TENSOR_TYPES
from tests.standins.checkpoint import tokenizer
from tests.standins.tiny import add_tokenizer

VOCABULARY = 600


def write_odd_model(rng: Random, path: Path) -> None:
    """A whole model that the checks should pass, or refuse for a reason of its own."""
    heads, kv_heads = rng.choice(((1, 1), (2, 1), (4, 2), (3, 3), (6, 2), (8, 8), (5, 1)))
    head_size = rng.choice((2, 4, 6, 8, 10, 16, 30, 32, 48, 64, 80, 128, 256, 320, 576))
    width = rng.choice((32, 64, 96, 256, min(512, heads * head_size)))
    shape = LlamaShape(
        vocabulary=VOCABULARY,
        context=rng.choice((1, 2, 63, 64, 65, 1000, 8192, 131072)),
        embedding=width,
        feed_forward=rng.choice((1, 2, 32, 100, 256, 512)),
        blocks=rng.choice((1, 1, 2, 3, 30 if heads * head_size < 1000 else 4)),
        heads=heads,
        kv_heads=kv_heads,
        head_size=head_size,
    )
    writer = gguf.GGUFWriter(path, "llama")
    add_tokenizer(writer, tokenizer(VOCABULARY))
    writer.add_block_count(shape.blocks)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(head_size)
    writer.add_value_length(head_size)
    writer.add_rope_freq_base(rng.choice((1.0, 10000.0, 500000.0, 1e12)))
    writer.add_layer_norm_rms_eps(rng.choice((1e-5, 1e-12, 1.0)))
    if rng.random() < 0.3:
        writer.add_rope_scaling_type(
            gguf.RopeScalingType(rng.choice(("linear", "yarn", "longrope")))
        )
        writer.add_rope_scaling_factor(rng.choice((1e-3, 1.0, 8.0, 1e6)))
        writer.add_rope_scaling_orig_ctx_len(rng.choice((1, 64, 8192, (1 << 31) - 1)))
    names = {kind.name: number for number, kind in TENSOR_TYPES.items()}
    chosen = [rng.choice([*names]) for _ in range(2)]
    data = []
    for name, sizes, required in _expected_tensors(shape):
        if not required and rng.random() < 0.7:
            continue
        kind = TENSOR_TYPES[names[rng.choice(chosen)]]
        if len(sizes) == 1 or sizes[0] % kind.block:
            kind = TENSOR_TYPES[0]
        count = math.prod(sizes) // kind.block * kind.nbytes
        data.append(rng.randbytes(count) if rng.random() < 0.5 else bytes(count))
        raw = gguf.GGMLQuantizationType[kind.name]
        writer.add_tensor_info(name, sizes[::-1], np.dtype(np.float32), count, raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with path.open("ab") as file:
        for piece in data:
            file.write(bytes(-file.tell() % 32) + piece)
        file.write(bytes(-file.tell() % 32))
