"""What is tuned, stage by stage: the candidates of each, what they are judged by, and which one is
most likely best, estimated from measurements alone.

Candidates are measured in rounds, one after the other, so that what slows the machine for a while
slows them all. Two are compared by the logarithms of their times' ratios in the rounds that have
both: the mean, shrunk towards no difference by what settings usually make (10%) and by how much
the rounds waver (3% before anything is known). So a few noisy rounds say little, many alike much,
and neither has to refuse a verdict.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llamacli.engine import EngineSettings, Profile, kv_types
from llamacli.tune.measure import Sample, Size

LEAST_ROUNDS = 2  # before one is left out
USUAL = 0.1  # standard deviation of differences between settings, as logarithms
NOISE, NOISE_ROUNDS = 0.03, 2  # that of rounds, and the rounds that this first guess is worth
MATTERS = 0.005  # a difference below it isn't worth another setting, nor another round
ONE_SIDED = 1.645  # 95% of a normal distribution

Rounds = Sequence[Mapping[str, Sample]]
UBATCHES = (128, 256, 512, 1024, 2048)
LEAST, MOST = Size(32, 4), Size(2048, 128)  # of one measurement


@dataclass(frozen=True)
class Work:
    """A use of a model: how often it is loaded, tokens read in bulk, tokens decoded."""

    loads: int = 0
    prompt: int = 0
    answer: int = 0

    def seconds(self, sample: Sample) -> float:
        """What it would take."""
        return self.loads * sample.load + self.prompt * sample.prefill + self.answer * sample.decode


# What a profile's settings are for. `short` is one question on a text, by a process of its own;
# `long` is a chat of many turns.
WORKS: dict[Profile, Work] = {
    "short": Work(loads=1, prompt=512, answer=64),
    "long": Work(loads=1, prompt=1000, answer=3000),
}
PREFILL, DECODE = Work(prompt=1), Work(answer=1)


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

    goals = []
    for profile, usual in settings.items():
        default = "GPU" if gpu else "repacked" if usual.repack else "as in the file"
        sets = "repack", "gpu_layers"
        goals.append(Goal(profile, WORKS[profile], default, (profile,), sets))
    return Stage("weights", candidates, tuple(goals), reload=True)


def threads_stage(counts: Sequence[int], default: int, profiles: tuple[Profile, ...]) -> Stage:
    """Numbers of threads, for prefill and for decode."""
    numbers = sorted({*counts, default})
    candidates = {str(n): {"threads": n, "threads_batch": n} for n in numbers}
    goals = (
        Goal("prefill", PREFILL, str(default), profiles, ("threads_batch",)),
        Goal("decode", DECODE, str(default), profiles, ("threads",)),
    )
    return Stage(f"threads, {' and '.join(profiles)}", candidates, goals)


def flash_stage(profiles: tuple[Profile, ...], default: str) -> Stage:
    """Attention with llama.cpp's flash kernels, on, and by matrix products, off.

    default is what the engine takes by itself, which it is left to: by the memory that is free.
    """
    goals = tuple(
        Goal(profile, WORKS[profile], default, (profile,), ("flash_attention",))
        for profile in profiles
    )
    candidates = {
        name: {"flash_attention": "auto" if name == default else name} for name in ("on", "off")
    }
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


def estimate(rounds: Rounds, work: Work, one: str, other: str) -> tuple[float, float]:
    """The logarithm of one's time over other's, and how sure that is: its standard deviation.

    The posterior of a normal mean with a normal prior around no difference.
    """
    logs = [
        math.log(work.seconds(samples[one]) / work.seconds(samples[other]))
        for samples in rounds
        if one in samples and other in samples
    ]
    if not logs:
        return 0.0, USUAL
    mean = statistics.fmean(logs)
    squares = NOISE_ROUNDS * NOISE**2 + sum((value - mean) ** 2 for value in logs)
    variance = squares / (NOISE_ROUNDS + len(logs) - 1) / len(logs)
    trust = USUAL**2 / (USUAL**2 + variance)
    return trust * mean, math.sqrt(trust * variance)


def fastest(rounds: Rounds, work: Work) -> str:
    """The candidate with the lowest median time, of those in the last round."""

    def median(name: str) -> float:
        return statistics.median(work.seconds(s[name]) for s in rounds if name in s)

    return min(rounds[-1], key=median)


def in_the_running(rounds: Rounds, works: Sequence[Work]) -> list[str]:
    """The last round's candidates that may still be the best by more than doesn't matter.

    The leader of each work, and those that may beat it with more than one chance in twenty.
    """
    if len(rounds) < LEAST_ROUNDS:
        return list(rounds[-1])
    kept = set()
    for work in works:
        leader = fastest(rounds, work)
        kept.add(leader)
        for name in rounds[-1]:
            slower, unsure = estimate(rounds, work, name, leader)
            if slower - ONE_SIDED * unsure < -MATTERS:
                kept.add(name)
    return [name for name in rounds[-1] if name in kept]


def winner(rounds: Rounds, work: Work, default: str) -> str:
    """The candidate that is most likely the fastest; the default where that doesn't matter."""
    leader = fastest(rounds, work)
    names = dict.fromkeys(name for samples in rounds for name in samples)
    ratios = {name: estimate(rounds, work, name, leader)[0] for name in names}
    best = min(ratios, key=ratios.__getitem__)
    if default not in names:
        return best
    return best if estimate(rounds, work, best, default)[0] < -MATTERS else default
