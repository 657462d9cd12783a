"""A GGUF file of any shape whose greedy answers are known: after a token comes a certain other one.

    python -m tests.standins.walk FILE --shape 8b

Its weights are made up in seconds, also an 8B's, and are quantized as a real one's are, so that
they take as long to compute with. Layers add little to a token's embedding; the output matrix has,
in the row of the token that comes after, the same embedding. The tokens that are text follow one
another in one round (token_after), and none is followed by one that ends the answer.
"""

import argparse
import math
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType
from numpy.typing import NDArray

from convert import LlamaConfig, frequency_factors, named_quantization, plan_tensors, write_header
from convert.kernels import quantize
from tests.standins.checkpoint import SPECIALS, shape_config, write_json, write_small_files
from tests.standins.hollow import without_weights

STEP = 7919  # from a token to the one that follows; a prime
DEVIATION = 0.02
ADDED = 0.05  # what layers add to an embedding, beside what they would add
SPREAD = 0.25  # deviation of the logits of all tokens but the one that follows
POOL = 1 << 21  # values that weights are taken from, again and again
ROWS = 4096  # of the embedding, made at once

Bytes = NDArray[np.uint8]


def token_after(token: int, vocabulary: int) -> int:
    """The likeliest one after a token that is text."""
    return (token + STEP) % (vocabulary - SPECIALS)


def walk(first: int, count: int, vocabulary: int) -> list[int]:
    """So many tokens, the first one among them, as they follow one another."""
    tokens = [first]
    while len(tokens) < count:
        tokens.append(token_after(tokens[-1], vocabulary))
    return tokens


def write_walk(path: Path, shape: str = "8b", quantization: str = "Q4_K_M", **changes: Any) -> Path:
    """changes are of the shape's config.json."""
    config = shape_config(shape, **changes, tie_word_embeddings=False)
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / f"Walk {shape}"
        folder.mkdir()
        write_json(folder / "config.json", config)
        write_small_files(folder, config)
        checkpoint = without_weights(folder)
    chosen = named_quantization(quantization)
    tensors = plan_tensors(checkpoint.config, chosen)
    start = write_header(path, checkpoint, chosen, tensors)
    with path.open("r+b") as file:
        file.truncate(start + tensors[-1].offset + tensors[-1].nbytes)
    mapped = np.memmap(path, np.uint8, "r+", offset=0)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        places = {tensor.spec.name: tensor for tensor in tensors}

        def put(name: str, values: Bytes) -> None:
            at, count = start + places[name].offset, places[name].nbytes
            mapped[at : at + count] = values.reshape(-1)

        kinds = (places["token_embd.weight"].type, places["output.weight"].type)
        size = checkpoint.config.vocab_size
        rows, copied = _embedding(pool, config["hidden_size"], size, kinds)
        moved, normal = np.zeros_like(copied), np.arange(size - SPECIALS)
        moved[(normal + STEP) % len(normal)] = copied[normal]
        put("token_embd.weight", rows)
        put("output.weight", moved)
        others = places.keys() - {"token_embd.weight", "output.weight"}
        for name in others:  # a pool's values are made once
            _pool_of(name, places[name].type)

        def write(name: str) -> None:
            put(name, _values(name, places[name].type, places[name].nbytes, checkpoint.config))

        list(pool.map(write, others))
    _pool.cache_clear()
    return path


def _values(name: str, kind: GGMLQuantizationType, nbytes: int, config: LlamaConfig) -> Bytes:
    """A tensor's bytes."""
    if name == "rope_freqs.weight":
        factors = frequency_factors(config)
        assert factors is not None
        return factors.view(np.uint8)
    if name.endswith("norm.weight"):
        scale = SPREAD / math.sqrt(config.hidden_size) if name == "output_norm.weight" else 1.0
        return np.full(nbytes // 4, scale, np.float32).view(np.uint8)
    pool = _pool_of(name, kind)
    return np.resize(pool, nbytes)  # whole blocks, over and over


def _pool_of(name: str, kind: GGMLQuantizationType) -> Bytes:
    if name.endswith(("norm.weight", "rope_freqs.weight")):
        return np.empty(0, np.uint8)
    adds = name.endswith(("attn_output.weight", "ffn_down.weight"))
    return _pool(kind, DEVIATION * (ADDED if adds else 1))


@cache
def _pool(kind: GGMLQuantizationType, deviation: float) -> Bytes:
    """Quantized values, in an order that no row of weights repeats: their number is odd."""
    rng = np.random.default_rng(int(kind))
    values = rng.standard_normal((POOL // 256 - 1, 256), dtype=np.float32) * np.float32(deviation)
    return quantize(kind, values).reshape(-1)


def _embedding(
    pool: ThreadPoolExecutor, width: int, size: int, kinds: tuple[GGMLQuantizationType, ...]
) -> tuple[Bytes, ...]:
    """The same made-up rows in each type."""

    def make(first: int) -> list[Bytes]:
        rng = np.random.default_rng(first)
        values = rng.standard_normal((min(ROWS, size - first), width), dtype=np.float32)
        return [quantize(kind, values) for kind in kinds]

    parts = list(pool.map(make, range(0, size, ROWS)))
    return tuple(np.concatenate(rows) for rows in zip(*parts, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--shape", default="8b")
    parser.add_argument("--quantization", default="Q4_K_M")
    given = parser.parse_args()
    write_walk(given.file, given.shape, given.quantization)


if __name__ == "__main__":
    main()
