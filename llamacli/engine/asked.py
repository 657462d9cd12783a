"""What a user asks of the machine, and what becomes of it: flags, tuned settings, defaults."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from llamacli.engine.settings import AdapterChoice, EngineSettings
from llamacli.workers import Address

if TYPE_CHECKING:
    from llamacli.machine import Processor

Profile = Literal["short", "long"]

# What `llamacli tune` chooses and a flag or a default may choose too.
TUNABLE = frozenset(
    {"threads", "threads_batch", "flash_attention", "batch", "ubatch", "kv_type", "repack"}
    | {"gpu_layers"}
)


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

    One thread a core that does the matrix products. With AVX2 alone the plain kernels read and
    decode faster than those for repacked weights; with AVX-512 they read faster, and decode slower,
    which a long chat feels. Nothing is copied at the start then. The figures are in
    docs/performance.md.
    """
    widest = "AVX512" if "AVX512" in processor.features else "AVX2"
    plain = widest in processor.features and (widest == "AVX2" or profile == "short")
    return {"threads": processor.cores, "repack": not plain}
