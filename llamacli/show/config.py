"""config.json back from a model: as the checkpoint had it, or derived from a GGUF's metadata."""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import convert
from llamacli.gguf import Array, GGUFFile, check_architecture

Source = GGUFFile | Path  # a Path is a checkpoint's folder

DERIVED = "_derived"  # the key that marks a config which no checkpoint wrote
MAX_FACTORS = 1 << 12  # head sizes are some hundreds
# What Meta's models have besides the factor; the tensor of factors says whether a file's do.
LLAMA3_SCALING = {
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}
SAME = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
        "num_attention_heads", "num_key_value_heads", "max_position_embeddings",
        "tie_word_embeddings")  # fmt: skip


@dataclass(frozen=True)
class FoundConfig:
    """A config, whether it was derived from metadata, and what of it can't be vouched for."""

    config: convert.LlamaConfig
    derived: bool
    notices: tuple[str, ...] = ()


def find_config(source: Source) -> FoundConfig:
    """The config of a checkpoint's folder or of a GGUF file.

    A file that llamacli converted holds config.json whole; of another, what its metadata tells.
    Raises InvalidModelError or CheckpointError.
    """
    if isinstance(source, Path):
        return FoundConfig(convert.read_config(source), derived=False)
    check_architecture(source)
    derived = derive_config(source)
    if convert.CONFIG_KEY not in source.metadata:
        return FoundConfig(derived, True, _unexplained_factors(source, derived))
    raw = stored_json(source, convert.CONFIG_KEY)
    if raw is None:
        source.fail(f"{convert.CONFIG_KEY} holds no JSON object")
    config = _checked(source, f"{convert.CONFIG_KEY}: ", raw)
    return FoundConfig(config, False, _contradictions(config, derived))


def derive_config(file: GGUFFile) -> convert.LlamaConfig:
    """A config from the metadata and tensors alone, which is what llama.cpp runs by."""
    raw = _raw_config(file)
    return _checked(file, "as derived from the metadata, ", raw)


def frequency_tensor(file: GGUFFile) -> NDArray[np.float32] | None:
    """rope_freqs.weight, what each frequency is divided by: float32 of head size / 2."""
    tensor = next((t for t in file.tensors if t.name == convert.ROPE_FACTORS), None)
    if tensor is None:
        return None
    if tensor.type.name != "F32" or len(tensor.shape) != 1 or tensor.shape[0] > MAX_FACTORS:
        what = f"{tensor.type.name} {list(tensor.shape)}"
        file.fail(f"{convert.ROPE_FACTORS} is {what}, not a vector of F32")
    factors = np.fromfile(file.path, "<f4", tensor.shape[0], offset=tensor.offset)
    if not ((factors > 1e-6) & (factors < 1e6)).all():
        file.fail(f"{convert.ROPE_FACTORS} has values that no frequency can be divided by")
    return factors


def explains(config: convert.LlamaConfig, factors: NDArray[np.float32]) -> bool:
    """Whether a config's rope_scaling is of the llama3 kind and gives just these factors, but for
    the rounding of float32."""
    if config.head_dim != 2 * len(factors):
        return False
    expected = convert.frequency_factors(config)
    return expected is not None and np.allclose(expected, factors, rtol=1e-5, atol=0)


def _checked(file: GGUFFile, where: str, raw: Mapping[str, Any]) -> convert.LlamaConfig:
    try:
        return convert.LlamaConfig.from_dict(raw)
    except convert.CheckpointError as error:
        file.fail(where + error.fault)


def stored_json(file: GGUFFile, key: str) -> dict[str, Any] | None:
    """The JSON object that a key's text is; None where it is none, or takes too much memory."""
    text = file.metadata.get(key)
    try:
        value = convert.parse_json(text.encode()) if isinstance(text, str) else None
    except (convert.CheckpointError, ValueError, RecursionError):
        value = None
    return value if isinstance(value, dict) else None


def _raw_config(file: GGUFFile) -> dict[str, Any]:
    tensors = {tensor.name for tensor in file.tensors}
    tokens = file.metadata.get("tokenizer.ggml.tokens")

    def key(name: str) -> Any:
        return _decimal(file.metadata.get(f"llama.{name}"))

    raw = {
        DERIVED: True,
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": "blk.0.attn_q.bias" in tensors,
        "bos_token_id": file.metadata.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": file.metadata.get("tokenizer.ggml.eos_token_id"),
        "head_dim": key("attention.key_length"),
        "hidden_act": "silu",
        "hidden_size": key("embedding_length"),
        "intermediate_size": key("feed_forward_length"),
        "max_position_embeddings": key("context_length"),
        "mlp_bias": "blk.0.ffn_up.bias" in tensors,
        "model_type": "llama",
        "num_attention_heads": key("attention.head_count"),
        "num_hidden_layers": key("block_count"),
        "num_key_value_heads": key("attention.head_count_kv"),
        "rms_norm_eps": key("attention.layer_norm_rms_epsilon"),
        "rope_scaling": _scaling(file, key),
        "rope_theta": key("rope.freq_base"),
        "tie_word_embeddings": "output.weight" not in tensors,
        "vocab_size": tokens.length if isinstance(tokens, Array) else key("vocab_size"),
    }
    raw = {name: value for name, value in raw.items() if value is not None}
    return raw | _llama3_scaling(file, raw)


def _decimal(value: Any) -> Any:
    """A float32 as the shortest decimal number that gives it: 1e-05, not 9.99999974737e-06."""
    if not isinstance(value, float):
        return value
    try:
        single = struct.pack("<f", value)
        shorter = (float(f"{value:.{digits}g}") for digits in range(1, 10))
        return next((v for v in shorter if struct.pack("<f", v) == single), value)
    except OverflowError:
        return value


def _scaling(file: GGUFFile, key: Any) -> dict[str, Any] | None:
    kind = file.metadata.get("llama.rope.scaling.type")
    if kind not in ("linear", "yarn"):
        return None
    names = {
        "factor": "factor",
        "original_max_position_embeddings": "original_context_length",
        "attention_factor": "yarn_attn_factor",
        "beta_fast": "yarn_beta_fast",
        "beta_slow": "yarn_beta_slow",
    }
    scaling = {name: key(f"rope.scaling.{ours}") for name, ours in names.items()}
    return {"rope_type": kind} | {n: value for n, value in scaling.items() if value is not None}


def _llama3_scaling(file: GGUFFile, raw: Mapping[str, Any]) -> dict[str, Any]:
    """rope_scaling of Meta's kind where it gives exactly the file's factors; else nothing."""
    factors = frequency_tensor(file)
    if factors is None or "rope_scaling" in raw:
        return {}
    scaling = {"factor": _decimal(float(factors.max())), **LLAMA3_SCALING}
    try:
        config = convert.LlamaConfig.from_dict({**raw, "rope_scaling": scaling})
    except convert.CheckpointError:
        return {}
    return {"rope_scaling": scaling} if explains(config, factors) else {}


def _unexplained_factors(file: GGUFFile, config: convert.LlamaConfig) -> tuple[str, ...]:
    scaling = config.rope_scaling
    if frequency_tensor(file) is None or (scaling is not None and scaling.kind == "llama3"):
        return ()
    return (
        f"{convert.ROPE_FACTORS} scales its frequencies in a way that rope_scaling doesn't say; "
        "--rope shows them",
    )


def _contradictions(stored: convert.LlamaConfig, derived: convert.LlamaConfig) -> tuple[str, ...]:
    """Where config.json as it is stored doesn't fit the file around it."""
    return tuple(
        f"its {convert.CONFIG_KEY} says {name} {getattr(stored, name)}, "
        f"the rest of its metadata {getattr(derived, name)}"
        for name in SAME
        if getattr(stored, name) != getattr(derived, name)
    )
