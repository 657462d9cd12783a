"""LlamaConfig: config.json of a Llama checkpoint, typed and checked."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from convert.errors import CheckpointError
from convert.small_files import boolean

# Upper bounds far above any Llama: they keep products of dimensions small enough to reason about.
MAX_LAYERS = 512  # LLAMA_MAX_LAYERS of llama.cpp
MAX_DIMENSION = 1 << 24
MAX_VOCABULARY = 1 << 21
MAX_CONTEXT = 1 << 31
DYNAMIC = "dynamic"  # rope scaling that begins beyond max_position_embeddings, where a file ends
# Keys that would make another model of it, and their values that don't.
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "partial_rotary_factor": (None, 1),
    "truncate": (None, True),  # yarn's bounds, rounded
    "rope_interleaved": (None, False),
    "is_causal": (None, True),
}
# Where those who quantize checkpoints say how: bitsandbytes, GPTQ, AWQ, FP8, then MLX and others.
QUANTIZED = ("quantization_config", "quantization", "compression_config")
ORIGINAL = "original_max_position_embeddings"
MAGNITUDES = ("mscale", "mscale_all_dim")  # yarn's attention factor is the ratio of theirs


@dataclass(frozen=True)
class RopeScaling:
    """How rotary embeddings are stretched beyond the context they were trained at first.

    kind is 'llama3', 'linear' or 'yarn'; the last three fields belong to yarn and may be None.
    attention_factor is what cosines and sines are times, where that isn't usual_attention.
    """

    kind: str
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 8192
    attention_factor: float | None = None
    beta_fast: float | None = None
    beta_slow: float | None = None

    @property
    def usual_attention(self) -> float:
        """Yarn's attention factor where none is told."""
        return _magnitude(self.factor)


@dataclass(frozen=True)
class LlamaConfig:
    """The architecture of a LlamaForCausalLM; raw keeps every key of config.json as it was."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    rope_scaling: RopeScaling | None
    tie_word_embeddings: bool
    attention_bias: bool
    mlp_bias: bool
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    torch_dtype: str | None
    raw: Mapping[str, Any] = field(repr=False, compare=False)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> "LlamaConfig":
        """Check config.json's values. Raises CheckpointError that names the key."""
        _require_llama(raw)
        hidden = _integer(raw, "hidden_size")
        heads = _integer(raw, "num_attention_heads")
        kv_heads = _integer(raw, "num_key_value_heads", default=heads)
        head_dim = _integer(raw, "head_dim", default=hidden // heads)
        if raw.get("head_dim") is None and hidden % heads:
            raise _error(f"hidden_size {hidden} is not a multiple of num_attention_heads {heads}")
        if heads % kv_heads:
            raise _error(
                f"num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}"
            )
        if head_dim % 2:
            raise _error(f"head_dim {head_dim} is odd; rotary embeddings need pairs")
        theta, scaling = _rope(raw)
        vocab_size = _integer(raw, "vocab_size", most=MAX_VOCABULARY)
        bos = token_ids(raw.get("bos_token_id"), "bos_token_id", vocab_size)
        return cls(
            vocab_size=vocab_size,
            hidden_size=hidden,
            intermediate_size=_integer(raw, "intermediate_size"),
            num_hidden_layers=_integer(raw, "num_hidden_layers", most=MAX_LAYERS),
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            head_dim=head_dim,
            max_position_embeddings=_integer(raw, "max_position_embeddings", most=MAX_CONTEXT),
            rms_norm_eps=_number(raw, "rms_norm_eps", default=1e-6),
            rope_theta=theta,
            rope_scaling=scaling,
            tie_word_embeddings=boolean(raw, "tie_word_embeddings", "config.json"),
            attention_bias=boolean(raw, "attention_bias", "config.json"),
            mlp_bias=boolean(raw, "mlp_bias", "config.json"),
            bos_token_id=next(iter(bos), None),
            eos_token_ids=token_ids(raw.get("eos_token_id"), "eos_token_id", vocab_size),
            torch_dtype=raw.get("torch_dtype") or raw.get("dtype"),
            raw=raw,
        )


def token_ids(
    value: Any, key: str, vocab_size: int, *, file: str = "config.json"
) -> tuple[int, ...]:
    """One token id or a list of them, the value of file's key, as a tuple; None gives ()."""
    ids = [] if value is None else value if isinstance(value, list) else [value]
    for token in ids:
        if not _is_integer(token) or not 0 <= token < vocab_size:
            fault = f"{key} {token!r} is not a token id below {vocab_size}"
            raise CheckpointError(fault, file=file)
    return tuple(ids)


def _error(text: str) -> CheckpointError:
    return CheckpointError(text, file="config.json")


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _require_llama(raw: Mapping[str, Any]) -> None:
    architectures = raw.get("architectures")
    model_type = raw.get("model_type")
    named = architectures if isinstance(architectures, list) else []
    if "LlamaForCausalLM" not in named or model_type not in (None, "llama"):
        if not named and model_type in (None, "llama"):
            raise _error('it names no architectures; a Llama says ["LlamaForCausalLM"] there')
        kind = ", ".join(map(str, named)) or f"model_type {model_type!r}"
        raise _error(f"this is {kind}; only LlamaForCausalLM can be converted")
    if (activation := raw.get("hidden_act", "silu")) != "silu":
        raise _error(f"hidden_act {activation!r} is not supported, only 'silu'")
    _require_neutral(raw)
    for key in QUANTIZED:
        if (settings := raw.get(key)) is not None:
            method = settings.get("quant_method") if isinstance(settings, dict) else None
            by = f" ({method})" if isinstance(method, str) else ""
            fault = f"the weights are quantized already{by}"
            raise CheckpointError(
                fault, file="config.json", hint="convert the full-precision checkpoint"
            )


def _require_neutral(raw: Mapping[str, Any]) -> None:
    for key, neutral in NEUTRAL.items():
        if raw.get(key) not in neutral:
            raise _error(f"{key} is {raw[key]!r}, which llama.cpp's Llama doesn't do")


def _value(raw: Mapping[str, Any], key: str, default: Any) -> Any:
    value = default if raw.get(key) is None else raw[key]
    if value is None:
        raise _error(f"{key} is missing")
    return value


def _integer(
    raw: Mapping[str, Any], key: str, default: int | None = None, most: int = MAX_DIMENSION
) -> int:
    value = _value(raw, key, default)
    if not _is_integer(value) or not 1 <= value <= most:
        raise _error(f"{key} is {value!r}, expected an integer from 1 to {most}")
    return int(value)


def _number(raw: Mapping[str, Any], key: str, default: float | None = None) -> float:
    value = _value(raw, key, default)
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    if not numeric or not 0 < value < 1e30 or not math.isfinite(value):
        raise _error(f"{key} is {value!r}, expected a positive number")
    return float(value)


def rope_kind(raw: Mapping[str, Any]) -> Any:
    """The rope scaling's type, by either spelling; None where there is none."""
    scaling = raw.get("rope_parameters") or raw.get("rope_scaling")
    return scaling.get("rope_type", scaling.get("type")) if isinstance(scaling, dict) else None


def _rope(raw: Mapping[str, Any]) -> tuple[float, RopeScaling | None]:
    """rope_theta and the scaling, from either spelling.

    transformers 4 writes rope_theta and rope_scaling (type under 'rope_type', older 'type');
    transformers 5 writes rope_parameters with rope_theta inside.
    """
    parameters = raw.get("rope_parameters")
    key = "rope_scaling" if parameters is None else "rope_parameters"
    scaling = raw.get(key)
    if parameters is not None and raw.get("rope_scaling") not in (None, parameters):
        raise _error("rope_parameters and rope_scaling differ")
    if scaling is not None and not isinstance(scaling, dict):
        raise _error(f"{key} is {scaling!r}, expected an object or null")
    scaling = scaling or {}
    _require_neutral(scaling)  # transformers 5 has some of them here
    within = scaling.get("rope_theta")
    theta = _number(raw if within is None else scaling, "rope_theta", default=10000.0)
    if raw.get("rope_theta") not in (None, theta):  # versions of transformers take either
        raise _error(f"rope_theta is {raw['rope_theta']!r}, and in {key} {within!r}")
    kind = rope_kind(raw)
    if scaling.get("type") not in (None, kind):
        raise _error(f"{key} has the rope_type {kind!r} and the type {scaling['type']!r}")
    if kind is None:
        if set(scaling) - {"rope_theta"}:
            raise _error(f"{key} names no rope_type")
        return theta, None
    if kind in ("default", DYNAMIC):
        return theta, None
    if kind not in ("llama3", "linear", "yarn"):
        raise _error(f"rope type {kind!r} is not supported (llama3, linear, dynamic and yarn are)")
    return theta, _scaling(kind, scaling, raw)


def _scaling(kind: str, scaling: Mapping[str, Any], raw: Mapping[str, Any]) -> RopeScaling:
    factor = _number(scaling, "factor")
    if kind == "linear":
        return RopeScaling(kind, factor)
    outer = raw.get(ORIGINAL)
    context = raw.get("max_position_embeddings") if outer is None else outer
    original = _integer(scaling, ORIGINAL, default=context, most=MAX_CONTEXT)
    if outer not in (None, original):  # versions of transformers take either
        raise _error(f"{ORIGINAL} is {outer!r}, and {original} in the rope scaling")
    if kind == "llama3":
        low = _number(scaling, "low_freq_factor", default=1.0)
        high = _number(scaling, "high_freq_factor", default=4.0)
        if high - low <= 1e-6 * high:  # float32 tells no less apart
            raise _error(f"high_freq_factor {high} must be above low_freq_factor {low}")
        return RopeScaling(kind, factor, low, high, original)

    def optional(key: str) -> float | None:
        return None if scaling.get(key) is None else _number(scaling, key)

    attention = optional("attention_factor")
    several = [_number(scaling, key) for key in MAGNITUDES if scaling.get(key)]
    if attention is None and len(several) == 2:
        attention = _magnitude(factor, several[0]) / _magnitude(factor, several[1])
    return RopeScaling(
        kind,
        factor,
        original_max_position_embeddings=original,
        attention_factor=attention,
        beta_fast=optional("beta_fast"),
        beta_slow=optional("beta_slow"),
    )


def _magnitude(factor: float, times: float = 1.0) -> float:
    """Yarn's attention factor for contexts so many times as long (Peng et al. 2023, (22))."""
    return 1.0 if factor <= 1 else 1.0 + 0.1 * times * math.log(factor)
