"""How a model is run and how the next token is chosen: what a user asks of the machine, and what
becomes of it by tuned settings and defaults."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from llamacli.errors import UsageError
from llamacli.gguf import TENSOR_TYPES
from llamacli.workers import TIMEOUT, Address

if TYPE_CHECKING:
    from llamacli.machine import Processor

Profile = Literal["short", "long"]

# What `llamacli tune` chooses and a flag or a default may choose too.
TUNABLE = frozenset(
    {"threads", "threads_batch", "flash_attention", "batch", "ubatch", "kv_type", "repack"}
    | {"gpu_layers"}
)
KINDS = ("auto", "cpu", "metal", "cuda", "vulkan")  # of devices
MAX_THREADS = 512  # ggml's GGML_MAX_N_THREADS
MAX_BATCH = 1 << 16
MAX_SCALE = 1e4  # of an adapter
MAX_SEED = (1 << 32) - 2  # llama.cpp takes 2^32 - 1 for "choose one"
MAX_LAST_N = 1 << 20
MAX_LIKELIEST = 256  # tokens that are looked for among all

FLASH_ATTENTION = {"auto": -1, "off": 0, "on": 1}
KV_TYPES = {"f16": 1, "q8_0": 8, "q4_0": 2}  # ggml's type numbers

# What stands in for a key that the file doesn't have: temperature and top-p as Meta ships them with
# every Llama 3, top-k as transformers' own default, the others off.
DEFAULTS = {"temperature": 0.6, "top_k": 50, "top_p": 0.9, "min_p": 0.0, "repeat_penalty": 1.0}
WHOLE = ("top_k", "repeat_last_n", "seed")  # settings that are whole numbers
METADATA_KEYS = {
    "temperature": "general.sampling.temp",
    "top_k": "general.sampling.top_k",
    "top_p": "general.sampling.top_p",
    "min_p": "general.sampling.min_p",
    "repeat_penalty": "general.sampling.penalty_repeat",
}


def kv_types(head_size: int) -> tuple[str, ...]:
    """The types of a KV cache whose blocks an attention head's values fill."""
    return tuple(name for name in KV_TYPES if head_size % TENSOR_TYPES[KV_TYPES[name]].block == 0)


@dataclass(frozen=True)
class AdapterChoice:
    """A LoRA adapter's GGUF file, and what its product is times beside its own scale."""

    path: Path
    scale: float = 1.0


@dataclass(frozen=True)
class EngineSettings:
    """How a model is run. None leaves the choice to the model or the machine.

    context and batch sizes are in tokens; "auto" is the largest context, and the most layers on
    a GPU, that fit. device is a kind, or auto. repack lets llama.cpp rearrange weights in memory
    for its fastest kernels; overcommit loads a model that seems not to fit. outputs is of how
    many tokens of a micro-batch there are logits; 1 serves to generate. adapters are loaded, too.
    workers are other machines that hold layers; split has the parts of this machine and of each of
    them, empty for what is free; worker_timeout is how many seconds one may take for its part of a
    step.
    """

    context: int | Literal["auto"] | None = None
    threads: int | None = None
    threads_batch: int | None = None
    device: str = "auto"
    gpu_layers: int | Literal["auto"] = "auto"
    flash_attention: str = "auto"
    batch: int = 512
    ubatch: int = 512
    kv_type: str = "f16"
    repack: bool = True
    mmap: bool = True
    overcommit: bool = False
    outputs: int = 1
    adapters: tuple[AdapterChoice, ...] = ()
    workers: tuple[Address, ...] = ()
    split: tuple[float, ...] = ()
    worker_timeout: float = TIMEOUT

    def __post_init__(self) -> None:
        limits = {"threads": MAX_THREADS, "threads_batch": MAX_THREADS, "context": 1 << 31}
        for name, most in {**limits, "batch": MAX_BATCH, "ubatch": MAX_BATCH}.items():
            value = getattr(self, name)
            if value not in (None, "auto") and not 1 <= value <= most:
                raise UsageError(f"{name} is {value}; give 1 to {most}")
        if self.gpu_layers != "auto" and self.gpu_layers < 0:
            raise UsageError(f"gpu_layers is {self.gpu_layers}; give a number or auto")
        if self.device not in KINDS:
            raise UsageError(f"the device is one of {', '.join(KINDS)}, not {self.device!r}")
        if self.split and len(self.split) != 1 + len(self.workers):
            raise UsageError(
                f"--split has {len(self.split)} parts; give {1 + len(self.workers)}, this "
                "machine's first and then each worker's"
            )
        if not 0 < self.worker_timeout < 1e9:
            raise UsageError(f"a worker may take more than 0 seconds, not {self.worker_timeout:g}")
        if self.flash_attention not in FLASH_ATTENTION:
            raise UsageError(f"flash attention is auto, on or off, not {self.flash_attention!r}")
        if self.kv_type not in KV_TYPES:
            raise UsageError(f"the KV cache is {', '.join(KV_TYPES)}, not {self.kv_type!r}")
        if self.kv_type != "f16" and self.flash_attention == "off":
            raise UsageError(f"a KV cache of {self.kv_type} takes flash attention, which is off")


@dataclass(frozen=True)
class Asked:
    """What was asked for; None leaves it to the tuned settings and then to the defaults.

    profile says what counts: loading and prefill for a short answer, decode for a long chat.
    speculate auto drafts where that pays, and draft names a model that drafts, or is auto for the
    one that models.toml names. The other fields are EngineSettings'.
    """

    context: int | Literal["auto"] | None = None
    threads: int | None = None
    threads_batch: int | None = None
    device: str | None = None
    gpu_layers: int | Literal["auto"] | None = None
    flash_attention: str | None = None
    batch: int | None = None
    ubatch: int | None = None
    kv_type: str | None = None
    repack: bool | None = None
    overcommit: bool = False
    adapters: tuple[AdapterChoice, ...] = ()
    workers: tuple[Address, ...] | None = None
    split: tuple[float, ...] | None = None
    worker_timeout: float | None = None
    speculate: Literal["auto", "off"] | None = None
    draft: str | None = None
    tune: bool = True
    profile: Profile = "short"

    def __post_init__(self) -> None:
        EngineSettings(**self.flags())  # what can't be asked for is told at once

    def flags(self) -> dict[str, Any]:
        """The engine settings that were asked for. Threads hold for prefill too unless told."""
        names = {field.name for field in fields(EngineSettings)}
        given = {name: value for name, value in vars(self).items() if name in names}
        if self.threads is not None and self.threads_batch is None:
            given["threads_batch"] = self.threads
        return {name: value for name, value in given.items() if value is not None}


def chosen_settings(
    asked: Asked, tuned: Mapping[str, Any] | None, processor: "Processor"
) -> EngineSettings:
    """Flags before tuned settings before the processor's defaults. Raises UsageError.

    What was tuned for another device or KV cache than the one asked for is left aside with them.
    """
    chosen = {name: value for name, value in (tuned or {}).items() if name in TUNABLE}
    if asked.device is not None or asked.workers:
        chosen.pop("gpu_layers", None)
    if asked.kv_type is not None:
        chosen.pop("flash_attention", None)
    return EngineSettings(**{**defaults(processor, asked.profile), **chosen, **asked.flags()})


def defaults(processor: "Processor", profile: Profile) -> dict[str, Any]:
    """Engine settings for a kind of processor where nothing was measured.

    With AVX2 alone the plain kernels read and decode faster than those for repacked weights; with
    AVX-512 they read faster, and decode slower, which a long chat feels. Nothing is copied at the
    start then. The figures are in docs/performance.md.
    """
    widest = "AVX512" if "AVX512" in processor.features else "AVX2"
    plain = widest in processor.features and (widest == "AVX2" or profile == "short")
    return {"repack": not plain}


@dataclass(frozen=True)
class SamplingSettings:
    """temperature 0 is greedy; top_k 0, top_p 1, min_p 0 and repeat_penalty 1 are off.

    The penalties weigh on tokens among the last repeat_last_n: repeat_penalty divides, presence
    and frequency_penalty are taken off, the latter as often as a token is there. logit_bias is
    (token, what is added to its logit). seed None draws a new one for each answer.
    """

    temperature: float = DEFAULTS["temperature"]
    top_k: int = int(DEFAULTS["top_k"])
    top_p: float = DEFAULTS["top_p"]
    min_p: float = DEFAULTS["min_p"]
    repeat_penalty: float = DEFAULTS["repeat_penalty"]
    repeat_last_n: int = 64
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int | None = None

    @property
    def penalizes(self) -> bool:
        changed = (self.repeat_penalty - 1.0, self.presence_penalty, self.frequency_penalty)
        return bool(self.repeat_last_n) and any(changed)

    def __post_init__(self) -> None:
        _check("temperature", self.temperature, 0.0, 100.0)
        _check("top-k", self.top_k, 0, (1 << 31) - 1)
        _check("top-p", self.top_p, 0.0, 1.0)
        _check("min-p", self.min_p, 0.0, 1.0)
        _check("repeat-penalty", self.repeat_penalty, 0.01, 100.0)
        _check("repeat-last-n", self.repeat_last_n, 0, MAX_LAST_N)
        _check("presence-penalty", self.presence_penalty, -100.0, 100.0)
        _check("frequency-penalty", self.frequency_penalty, -100.0, 100.0)
        if self.seed is not None:
            _check("seed", self.seed, 0, MAX_SEED)

    @property
    def is_plainly_greedy(self) -> bool:
        """Whether the likeliest token is always chosen, whatever came before."""
        return self.is_greedy and not self.logit_bias

    @property
    def is_greedy(self) -> bool:
        """Whether the likeliest token is always chosen, once the biases are added."""
        return self.temperature == 0 and not self.penalizes

    @property
    def draws_of_top_k(self) -> bool:
        """Whether one of the top_k likeliest tokens is drawn, whatever came before."""
        return self.temperature > 0 < self.top_k and not (self.penalizes or self.logit_bias)

    @property
    def looks_for_likeliest(self) -> bool:
        """Whether few tokens, or one, are soon found to choose from."""
        return self.is_greedy or (self.draws_of_top_k and self.top_k <= MAX_LIKELIEST)

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any], **chosen: Any) -> Self:
        """The file's defaults where it has sound ones; chosen values that aren't None win."""
        values: dict[str, Any] = {
            name: metadata[key] for name, key in METADATA_KEYS.items() if key in metadata
        }
        values = {name: value for name, value in values.items() if is_sound(name, value)}
        values |= {name: value for name, value in chosen.items() if value is not None}
        return cls(**values)


def _check(name: str, value: float, least: float, most: float) -> None:
    if isinstance(value, bool) or not math.isfinite(value) or not least <= value <= most:
        shown = (str(end) if isinstance(end, int) else f"{end:g}" for end in (least, most))
        raise UsageError(f"{name} is {value}; give {' to '.join(shown)}")


def is_sound(name: str, value: Any) -> bool:
    """Whether a value from a stranger's file is a number that the setting of that name can take."""
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) >= 1 << 63:
        return False
    if name in WHOLE and not isinstance(value, int):
        return False
    setting: dict[str, Any] = {name: value}
    try:
        SamplingSettings(**setting)
    except UsageError:
        return False
    return True
