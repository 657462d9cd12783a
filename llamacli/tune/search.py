"""Which settings serve a model best on this machine, found by measuring.

Stages (tune_stages) come one after the other, each with the best of those before. Within a stage
the candidates are measured in turn (tune_trials); those clearly behind (tune_decide) aren't
measured again.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llamacli.engine import EngineSettings, Profile, defaults
from llamacli.gguf import check_llama, read_gguf
from llamacli.machine import find_devices, this_processor, thread_counts, use_devices
from llamacli.tune.decide import Rounds, winner
from llamacli.tune.measure import Sample
from llamacli.tune.profiles import PROFILES, TYPES
from llamacli.tune.stages import (
    LEAST,
    MOST,
    Stage,
    batch_stage,
    flash_stage,
    kv_stage,
    threads_stage,
    weights_stage,
)
from llamacli.tune.trials import Trials, measure_stage, seconds_each, size_for

WEIGHTS_SHARE = 0.4  # of the time, for the stage that loads the model again and again
COSTS_SHARE, DEPTH = 0.05, 128  # for what drafts cost, with so many tokens in the cache
BATCHES_MEASURED = 12  # about so many measurements find the micro-batch
USUAL_PROMPT = 512  # tokens; more would only cost time where the batch isn't the question

Settings = dict[Profile, EngineSettings]


@dataclass(frozen=True)
class Row:
    """What a candidate came to: medians, load in seconds, rates in tokens a second.

    best_for names the goals that it was chosen for; load is None where it wasn't measured.
    """

    stage: str
    candidate: str
    load: float | None
    prefill: float
    decode: float
    rounds: int
    best_for: tuple[str, ...]


@dataclass(frozen=True)
class Tuning:
    """All that was measured, and each profile's settings as `keep` takes them.

    costs are those of checking so many drafted tokens at once.
    """

    rows: tuple[Row, ...]
    profiles: Mapping[Profile, Mapping[str, Any]]
    costs: Mapping[int, float]
    seconds: float


def tune(
    path: Path,
    seconds: float = 60.0,
    profiles: Sequence[Profile] = PROFILES,
    *,
    on_stage: Callable[[str], None] = lambda _: None,
    **machine: Any,
) -> Tuning:
    """Measure for about so many seconds; a model that loads slowly takes longer.

    on_stage gets the title of each stage before it; machine are fields of EngineSettings that stay
    as they are. Raises what Engine raises.
    """
    started = time.monotonic()
    processor = this_processor()
    shape = check_llama(read_gguf(path))
    longest = max(LEAST.prompt, min(MOST.prompt, shape.context - MOST.answer))
    gpu = not machine.get("workers") and bool(use_devices(find_devices(), "auto"))
    settings = {name: EngineSettings(**defaults(processor, name), **machine) for name in profiles}
    rows: list[Row] = []
    with closing(Trials(path)) as trials:
        plain = replace(settings[profiles[0]], repack=False)
        trials.measure(plain, LEAST, True)  # pages the weights in
        speed = trials.measure(plain, LEAST, True)

        def run(stage: Stage, profile: Profile, end: float, most: int = USUAL_PROMPT) -> None:
            nonlocal speed
            if len(stage.candidates) < 2 or (rows and time.monotonic() >= end):
                return
            on_stage(stage.title)
            each = seconds_each(stage, end, speed, time.monotonic())
            size = size_for(each, speed, min(most, longest))
            rounds = measure_stage(stage, settings[profile], size, trials.measure, end)
            if not rounds:
                return
            chosen = {goal.name: winner(rounds, goal.work, goal.default) for goal in stage.goals}
            settings.update(applied(stage, chosen, settings))
            rows.extend(rows_of(stage, rounds, chosen))
            speed = typical(rounds)

        run(
            weights_stage(settings, shape.blocks, gpu),
            profiles[0],
            started + seconds * WEIGHTS_SHARE,
        )
        alike = groups(settings)
        for i, group in enumerate(alike):
            end = _share(started + seconds, len(alike) - i)
            threads = settings[group[0]].threads or processor.cores
            run(threads_stage(thread_counts(), threads, group), group[0], _share(end, 4))
            run(flash_stage(group), group[0], _share(end, 3))
            each = (_share(end, 2) - time.monotonic()) / BATCHES_MEASURED
            prompt = size_for(each, speed, longest).prompt
            run(batch_stage(prompt, group), group[0], _share(end, 2), prompt)
        run(kv_stage(shape.head_size), profiles[-1], started + seconds)
        on_stage("drafts")
        costs = trials.costs(settings[profiles[-1]], min(longest, DEPTH), seconds * COSTS_SHARE)
    kept = {name: kept_settings(one) for name, one in settings.items()}
    return Tuning(tuple(rows), kept, costs, time.monotonic() - started)


def groups(settings: Settings) -> list[tuple[Profile, ...]]:
    """The profiles, those together whose weights lie alike."""
    alike: dict[Any, tuple[Profile, ...]] = {}
    for name, one in settings.items():
        key = one.repack, one.gpu_layers
        alike[key] = (*alike.get(key, ()), name)
    return list(alike.values())


def applied(stage: Stage, chosen: Mapping[str, str], settings: Settings) -> Settings:
    """The profiles' settings with what the chosen candidates change."""
    result = dict(settings)
    for goal in stage.goals:
        candidate = stage.candidates[chosen[goal.name]]
        changes: dict[str, Any] = {name: candidate[name] for name in goal.sets if name in candidate}
        for profile in goal.profiles:
            result[profile] = replace(result[profile], **changes)
    return result


def typical(rounds: Rounds) -> Sample:
    """Medians over all candidates, to plan by."""
    samples = [sample for samples in rounds for sample in samples.values()]
    return Sample(*(_median(samples, name) for name in ("load", "prefill", "decode")))


def rows_of(stage: Stage, rounds: Rounds, chosen: Mapping[str, str]) -> list[Row]:
    """A row a candidate that was measured at all."""
    rows = []
    for name in stage.candidates:
        samples = [samples[name] for samples in rounds if name in samples]
        if samples:
            load = _median(samples, "load") if stage.reload else None
            prefill, decode = (1 / _median(samples, key) for key in ("prefill", "decode"))
            best_for = tuple(goal for goal, best in chosen.items() if best == name)
            rows.append(Row(stage.title, name, load, prefill, decode, len(samples), best_for))
    return rows


def kept_settings(settings: EngineSettings) -> dict[str, Any]:
    """What tuning decides of settings, without what was left open."""
    return {name: value for name, value in vars(settings).items() if type(value) is TYPES.get(name)}


def _median(samples: Sequence[Sample], name: str) -> float:
    values: list[float] = [getattr(sample, name) for sample in samples]
    return statistics.median(values)


def _share(end: float, parts: int) -> float:
    """When the first of so many equal parts of the time until end is over."""
    now = time.monotonic()
    return now + (end - now) / parts
