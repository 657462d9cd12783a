"""What is tuned, stage by stage: the candidates of each, and what they are judged by."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llamacli.engine import EngineSettings, Profile, kv_types
from llamacli.tune.decide import Work
from llamacli.tune.measure import Size

# What a profile's settings are for. `short` is one question on a text, by a process of its own;
# `long` is a chat of many turns.
WORKS: dict[Profile, Work] = {
    "short": Work(loads=1, prompt=512, answer=64),
    "long": Work(loads=1, prompt=1000, answer=3000),
}
PREFILL, DECODE = Work(prompt=1), Work(answer=1)
UBATCHES = (128, 256, 512, 1024, 2048)
LEAST, MOST = Size(32, 4), Size(2048, 128)  # of one measurement


@dataclass(frozen=True)
class Goal:
    """What candidates are judged by, the one that wins a tie, and what the best one sets.

    sets names the settings that are taken from it, in profiles.
    """

    name: str
    work: Work
    default: str
    profiles: tuple[Profile, ...]
    sets: tuple[str, ...]


@dataclass(frozen=True)
class Stage:
    """Candidates by name, each as changes to EngineSettings; without goals, they are only shown.

    reload has the model loaded anew for each measurement.
    """

    title: str
    candidates: Mapping[str, Mapping[str, Any]]
    goals: tuple[Goal, ...] = field(default=())
    reload: bool = False


def weights_stage(settings: Mapping[Profile, EngineSettings], layers: int, gpu: bool) -> Stage:
    """Where the weights lie and in which order: repacked or as in the file, on a GPU or not."""
    candidates: dict[str, dict[str, Any]] = {
        "repacked": {"repack": True},
        "as in the file": {"repack": False},
    }
    if gpu:
        on_cpu = {f"CPU, {name}": {**c, "gpu_layers": 0} for name, c in candidates.items()}
        candidates = {
            "GPU": {"repack": True, "gpu_layers": layers + 1},
            "half on the GPU": {"repack": True, "gpu_layers": (layers + 1) // 2},
            **on_cpu,
        }

    def default(profile: Profile) -> str:
        repacked = "repacked" if settings[profile].repack else "as in the file"
        return "GPU" if gpu else repacked

    goals = tuple(
        Goal(profile, WORKS[profile], default(profile), (profile,), ("repack", "gpu_layers"))
        for profile in settings
    )
    return Stage("weights", candidates, goals, reload=True)


def threads_stage(counts: Sequence[int], default: int, profiles: tuple[Profile, ...]) -> Stage:
    """Numbers of threads, for prefill and for decode."""
    numbers = sorted({*counts, default})
    candidates = {str(n): {"threads": n, "threads_batch": n} for n in numbers}
    goals = (
        Goal("prefill", PREFILL, str(default), profiles, ("threads_batch",)),
        Goal("decode", DECODE, str(default), profiles, ("threads",)),
    )
    return Stage(f"threads, {' and '.join(profiles)}", candidates, goals)


def flash_stage(profiles: tuple[Profile, ...]) -> Stage:
    """Attention with llama.cpp's flash kernels, and by matrix products."""
    goals = tuple(
        Goal(profile, WORKS[profile], "on", (profile,), ("flash_attention",))
        for profile in profiles
    )
    candidates = {name: {"flash_attention": name} for name in ("on", "off")}
    return Stage(f"flash attention, {' and '.join(profiles)}", candidates, goals)


def batch_stage(prompt: int, profiles: tuple[Profile, ...]) -> Stage:
    """Micro-batches that a prompt of so many tokens can tell apart, and llama.cpp's 512."""
    sizes = [n for n in UBATCHES if n == 512 or n < min(prompt, 512) or 512 < n <= prompt]
    candidates = {str(n): {"batch": max(n, 512), "ubatch": n} for n in sizes}
    goal = Goal("prefill", PREFILL, "512", profiles, ("batch", "ubatch"))
    return Stage(f"micro-batch, {' and '.join(profiles)}", candidates, (goal,))


def kv_stage(head_size: int) -> Stage:
    """Types of the KV cache, to be seen: those smaller than f16 cost accuracy, so none is set."""
    candidates = {
        name: {"kv_type": name, "flash_attention": "auto"}  # the small ones don't go without
        for name in kv_types(head_size)
    }
    return Stage("KV cache", candidates)
