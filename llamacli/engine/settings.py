"""How a model is run: what a user asks of the machine, and what becomes of it by tuned settings and
defaults."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

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

FLASH_ATTENTION = {"auto": -1, "off": 0, "on": 1}
KV_TYPES = {"f16": 1, "q8_0": 8, "q4_0": 2}  # ggml's type numbers


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
    many tokens of a micro-batch there are logits, and a batch has at least as many; 1 serves to
    generate. adapters are loaded, too.
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
