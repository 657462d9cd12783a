"""The metadata that llama.cpp runs by, key by key against config.json; rotary frequencies."""

import struct
from collections.abc import Mapping
from typing import Any

from convert import CONFIG_KEY, GENERATION_KEY, ROPE_FACTORS, Checkpoint, LlamaConfig
from llamacli.gguf import Array, GGUFFile
from llamacli.show import find_rope, rope_of, stored_json
from llamacli.verify.rows import Row, judged

FREQUENCY_TOLERANCE = 1e-4  # relative: other converters compute in float32 throughout
SAMPLING = {
    "temp": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "penalty_repeat": "repetition_penalty",
}


def metadata_row(file: GGUFFile, checkpoint: Checkpoint) -> Row:
    """Sizes, epsilon and rope keys, and the checkpoint's own JSON where the file holds it."""
    expected, defaults = expected_keys(checkpoint.config), default_keys(file)
    problems = []
    for key, value in expected.items():
        stored = file.metadata.get(key, defaults.get(key))
        if not _same(stored, value):
            told = f"{stored!r}" if key in file.metadata else f"missing, which means {stored!r}"
            problems.append(f"{key} is {told}; config.json makes it {value!r}")
    sampling = _sampling(checkpoint.generation_config)
    for key, value in sampling.items():
        if key in file.metadata and not _same(file.metadata[key], value):
            stored = file.metadata[key]
            problems.append(f"{key} is {stored!r}; generation_config.json makes it {value!r}")
    problems += _stored_json(file, CONFIG_KEY, "config.json", checkpoint.config.raw)
    problems += _stored_json(
        file, GENERATION_KEY, "generation_config.json", checkpoint.generation_config
    )
    return judged("metadata", problems, f"{len(expected)} values are config.json's")


def rope_row(file: GGUFFile, checkpoint: Checkpoint) -> Row:
    """The frequencies that the file makes, its tensor of factors included, and config.json's."""
    expected, stored = rope_of(checkpoint.config), find_rope(file)
    problems = []
    if expected.scaling == "llama3" and ROPE_FACTORS not in {t.name for t in file.tensors}:
        problems.append(f"{ROPE_FACTORS} is missing, and with it the llama3 scaling")
    elif len(expected.scaled) != len(stored.scaled):
        problems.append(f"there are {len(stored.scaled)} frequencies, not {len(expected.scaled)}")
    else:
        pairs = zip(expected.scaled, stored.scaled, strict=True)
        problems += [
            f"the frequency of pair {i} is {b:.7g}; config.json makes it {a:.7g}"
            for i, (a, b) in enumerate(pairs)
            if not abs(a - b) <= FREQUENCY_TOLERANCE * a
        ]
    scaling = f"{expected.scaling} scaling" if expected.scaling else "no scaling"
    return judged("rope", problems, f"{len(expected.scaled)} frequencies, {scaling}")


def expected_keys(config: LlamaConfig) -> dict[str, Any]:
    """What the GGUF specification's keys must be for this config."""
    scaling = config.rope_scaling
    keys = {
        "vocab_size": config.vocab_size,
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.dimension_count": config.head_dim,
        "rope.freq_base": config.rope_theta,
        "rope.scaling.type": "none",  # llama3 scaling is a tensor
    }
    if scaling is not None and scaling.kind != "llama3":
        keys |= {"rope.scaling.type": scaling.kind, "rope.scaling.factor": scaling.factor}
    if scaling is not None and scaling.kind == "yarn":
        original = scaling.original_max_position_embeddings
        keys["rope.scaling.original_context_length"] = original
        factor = scaling.attention_factor or scaling.usual_attention
        keys["rope.scaling.attn_factor"] = factor / scaling.usual_attention
    return {f"llama.{key}": value for key, value in keys.items()}


def default_keys(file: GGUFFile) -> dict[str, Any]:
    """What llama.cpp takes for keys that a file doesn't have."""
    heads = file.metadata.get("llama.attention.head_count")
    width = file.metadata.get("llama.embedding_length")
    tokens = file.metadata.get("tokenizer.ggml.tokens")
    known = isinstance(heads, int) and isinstance(width, int) and heads > 0
    head_dim = width // heads if known else None  # type: ignore[operator]
    return {
        "llama.vocab_size": tokens.length if isinstance(tokens, Array) else None,
        "llama.attention.head_count_kv": heads,
        "llama.attention.key_length": head_dim,
        "llama.attention.value_length": head_dim,
        "llama.rope.dimension_count": head_dim,
        "llama.rope.freq_base": 10000.0,
        "llama.rope.scaling.type": "none",
        "llama.rope.scaling.attn_factor": 1.0,
    }


def _sampling(generation: Mapping[str, Any]) -> dict[str, Any]:
    named = {f"general.sampling.{key}": generation.get(name) for key, name in SAMPLING.items()}
    if generation.get("do_sample") is False:
        named["general.sampling.temp"] = 0.0
    return {key: value for key, value in named.items() if value is not None}


def _stored_json(file: GGUFFile, key: str, name: str, raw: Mapping[str, Any]) -> list[str]:
    """How a JSON file that the GGUF file holds differs from the checkpoint's."""
    if key not in file.metadata:
        return []
    stored = stored_json(file, key)
    if stored is None:
        return [f"{key} holds no JSON object"]
    different = sorted(k for k in {*raw, *stored} if raw.get(k) != stored.get(k))
    return [
        f"{key} has {k} {stored.get(k)!r}; the checkpoint's {name} {raw.get(k)!r}"
        for k in different
    ]


def _same(stored: Any, expected: Any) -> bool:
    """Equal, numbers as GGUF has them: float32."""
    if isinstance(expected, float) and isinstance(stored, int | float):
        try:
            return struct.pack("<f", stored) == struct.pack("<f", expected)
        except OverflowError:
            return False
    return bool(stored == expected) and isinstance(stored, bool) == isinstance(expected, bool)
