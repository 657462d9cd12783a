"""Write a Llama checkpoint of any shape with made-up weights, for benchmarks and tests.

    python -m tests.standins.checkpoint FOLDER --shape 1b --layers 2

Weights are normal with the config's initializer_range (0.02) as deviation, norms near 1; the
tokenizer is a byte-level BPE of Llama 3's kind with made-up merges, of the wanted size.
"""

import argparse
import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from convert.config import LlamaConfig
from convert.pretokenizer import LLAMA3_PATTERN, byte_letters
from convert.safetensors import ITEM_SIZES
from convert.tensors import TensorSpec, llama_tensors

NAMED_SPECIAL = {
    0: "begin_of_text", 1: "end_of_text", 4: "finetune_right_pad_id", 6: "start_header_id",
    7: "end_header_id", 8: "eom_id", 9: "eot_id", 10: "python_tag",
}  # fmt: skip
SPECIALS = 256

TEMPLATE = (
    "{{- bos_token }}{% for message in messages %}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{{- message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)

SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2,
             "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64,
             "vocab_size": 1024},
    "1b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
           "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64,
           "vocab_size": 128256, "tie_word_embeddings": True},
    "3b": {"hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28,
           "num_attention_heads": 24, "num_key_value_heads": 8, "head_dim": 128,
           "vocab_size": 128256, "tie_word_embeddings": True},
    "8b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
           "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
           "vocab_size": 128256},
    "70b": {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80,
            "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 128,
            "vocab_size": 128256},
    "405b": {"hidden_size": 16384, "intermediate_size": 53248, "num_hidden_layers": 126,
             "num_attention_heads": 128, "num_key_value_heads": 8, "head_dim": 128,
             "vocab_size": 128256},
}  # fmt: skip


def shape_config(shape: str, **changes: Any) -> dict[str, Any]:
    """A config.json of a named shape, Llama 3.1 style, with some keys changed."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "max_position_embeddings": 131072,
        "mlp_bias": False,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192, "rope_type": "llama3",
        },
        "rope_theta": 500000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        **SHAPES[shape],
        **changes,
    }  # fmt: skip
    first = config["vocab_size"] - SPECIALS
    config.setdefault("bos_token_id", first)
    config.setdefault("eos_token_id", [first + 1, first + 8, first + 9])
    return config


def write_checkpoint(
    folder: Path,
    config: Mapping[str, Any],
    *,
    dtype: str = "BF16",
    shards: int = 1,
    seed: int = 0,
    sparse: bool = False,
) -> None:
    """Write a whole checkpoint folder; dtype is BF16, F16 or F32.

    sparse makes all weights zeros in files with holes, which take no disk.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", config)
    write_small_files(folder, config)
    deviation = config["initializer_range"]
    specs = list(llama_tensors(LlamaConfig.from_dict(config)))
    rng = None if sparse else np.random.default_rng(seed)
    if shards == 1:
        write_shard(folder / "model.safetensors", specs, rng, dtype, deviation)
        return
    weight_map = {}
    for i, part in enumerate(np.array_split(np.arange(len(specs)), shards), 1):
        name = f"model-{i:05d}-of-{shards:05d}.safetensors"
        write_shard(folder / name, [specs[j] for j in part], rng, dtype, deviation)
        weight_map |= {specs[j].source: name for j in part}
    write_json(folder / "model.safetensors.index.json", {"weight_map": weight_map})


def write_small_files(folder: Path, config: Mapping[str, Any]) -> None:
    """tokenizer.json, tokenizer_config.json and generation_config.json to go with a config."""
    write_json(folder / "tokenizer.json", tokenizer(config["vocab_size"]))
    write_json(
        folder / "tokenizer_config.json",
        {
            "bos_token": "<|begin_of_text|>",
            "eos_token": "<|eot_id|>",
            "chat_template": TEMPLATE,
            "tokenizer_class": "PreTrainedTokenizerFast",
        },
    )
    write_json(
        folder / "generation_config.json",
        {
            "do_sample": True,
            "temperature": 0.6,
            "top_p": 0.9,
            "eos_token_id": config["eos_token_id"],
        },
    )


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False), encoding="utf-8")


def tokenizer(vocab_size: int) -> dict[str, Any]:
    """A tokenizer.json of Llama 3's kind: 256 bytes, merges of them, 256 special tokens."""
    letters = byte_letters()
    vocabulary = {letter: i for i, letter in enumerate(letters)}
    merges = []
    plain = [b for b in letters if b.isalpha()]
    longer = itertools.chain(
        ((a, b) for a in plain for b in plain),
        ((a + b, c) for a in plain for b in plain for c in plain),
    )
    for left, right in longer:
        if len(vocabulary) >= vocab_size - SPECIALS:
            break
        if left + right not in vocabulary:
            vocabulary[left + right] = len(vocabulary)
            merges.append([left, right])
    first = len(vocabulary)
    specials = [
        f"<|{NAMED_SPECIAL.get(i, f'reserved_special_token_{i}')}|>" for i in range(SPECIALS)
    ]
    return {
        "version": "1.0",
        "added_tokens": [
            {"id": first + i, "content": text, "single_word": False, "lstrip": False,
             "rstrip": False, "normalized": False, "special": True}
            for i, text in enumerate(specials)
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": LLAMA3_PATTERN}, "behavior": "Isolated",
                 "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                 "use_regex": False},
            ],
        },
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True,
                    "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "ignore_merges": True,
                  "byte_fallback": False, "fuse_unk": False, "vocab": vocabulary,
                  "merges": merges},
    }  # fmt: skip


def write_shard(
    path: Path,
    specs: list[TensorSpec],
    rng: np.random.Generator | None,
    dtype: str,
    deviation: float,
) -> None:
    """One safetensors file with those tensors, written in pieces; zeros where rng is None."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for spec in specs:
        end = offset + spec.parameters * ITEM_SIZES[dtype]
        header[spec.source] = {
            "dtype": dtype, "shape": list(spec.shape), "data_offsets": [offset, end],
        }  # fmt: skip
        offset = end
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    with path.open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        if rng is None:
            file.truncate(file.tell() + offset)
            return
        for spec in specs:
            for values in _random_weights(spec, rng, deviation):
                file.write(encode(values, dtype))


def _random_weights(
    spec: TensorSpec, rng: np.random.Generator, deviation: float
) -> Iterator[np.ndarray]:
    mean = np.float32(1.0 if len(spec.shape) == 1 else 0.0)
    for start in range(0, spec.parameters, 1 << 22):
        count = min(1 << 22, spec.parameters - start)
        yield rng.standard_normal(count, dtype=np.float32) * np.float32(deviation) + mean


def encode(values: np.ndarray, dtype: str) -> bytes:
    """float32 values as the bytes of BF16 (rounded to nearest even), F16 or F32."""
    if dtype == "BF16":
        bits = values.astype(np.float32).view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16).tobytes()
    return values.astype({"F16": np.float16, "F32": np.float32}[dtype]).tobytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shape", choices=SHAPES, default="1b")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--dtype", choices=ITEM_SIZES, default="BF16")
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--sparse", action="store_true", help="zeros that take no disk")
    arguments = parser.parse_args()
    changes = {"num_hidden_layers": arguments.layers} if arguments.layers else {}
    write_checkpoint(
        arguments.folder,
        shape_config(arguments.shape, **changes),
        dtype=arguments.dtype,
        shards=arguments.shards,
        sparse=arguments.sparse,
    )


if __name__ == "__main__":
    main()
