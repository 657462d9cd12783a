"""Which settings serve a model best on this machine, found by measuring.

Stages come one after the other, each with the best of those before. Within a stage the candidates
are measured in turn, by one model in memory and within a time; those clearly behind aren't measured
again.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llamacli.engine import Engine, EngineSettings, Profile, default_threads, defaults
from llamacli.errors import DoesNotFitError, UsageError
from llamacli.gguf import check_llama, read_gguf
from llamacli.machine import find_devices, this_processor, thread_counts, use_devices
from llamacli.speculate import MOST_ROWS, learn_costs
from llamacli.tune import stages
from llamacli.tune.measure import (
    Sample,
    Size,
    decode_seconds,
    made_up_tokens,
    prefill_seconds,
)
from llamacli.tune.profiles import PROFILES, TYPES

WEIGHTS_SHARE = 0.4  # of the time, for the stage that loads the model again and again
COSTS_SHARE, DEPTH = 0.05, 128  # for what drafts cost, with so many tokens in the cache
COSTS_ROUNDS = 50
BATCHES_MEASURED = 12  # about so many measurements find the micro-batch
USUAL_PROMPT = 512  # tokens; more would only cost time where the batch isn't the question
PLANNED_ROUNDS, MOST_ROUNDS = 3, 6
PROMPT_SHARE = 0.7  # of a measurement's time

Measure = Callable[[EngineSettings, Size, bool], Sample]
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
    longest = min(stages.MOST.prompt, shape.context - stages.MOST.answer)
    if longest < stages.LEAST.prompt:
        raise UsageError(f"a context of {shape.context} tokens is too short for what is measured")
    gpu = not machine.get("workers") and bool(use_devices(find_devices(), "auto"))
    settings = {name: EngineSettings(**defaults(processor, name), **machine) for name in profiles}
    rows: list[Row] = []
    with closing(Trials(path)) as trials:
        plain = replace(settings[profiles[0]], repack=False)
        trials.measure(plain, stages.LEAST, True)  # pages the weights in
        speed = trials.measure(plain, stages.LEAST, True)

        def run(
            stage: stages.Stage, profile: Profile, end: float, most: int = USUAL_PROMPT
        ) -> None:
            nonlocal speed
            if len(stage.candidates) < 2 or (rows and time.monotonic() >= end):
                return
            on_stage(stage.title)
            each = seconds_each(stage, end, speed, time.monotonic())
            size = size_for(each, speed, min(most, longest))
            rounds = measure_stage(stage, settings[profile], size, trials.measure, end)
            if not rounds:
                return
            chosen = {
                goal.name: stages.winner(rounds, goal.work, goal.default) for goal in stage.goals
            }
            settings.update(applied(stage, chosen, settings))
            rows.extend(rows_of(stage, rounds, chosen))
            speed = next(iter(rounds[-1].values()))  # to plan by

        run(
            stages.weights_stage(settings, shape.blocks, gpu),
            profiles[0],
            started + seconds * WEIGHTS_SHARE,
        )
        alike = groups(settings)
        for i, group in enumerate(alike):
            end = _share(started + seconds, len(alike) - i)
            layers = settings[group[0]].gpu_layers
            layers = shape.blocks + gpu if layers == "auto" else layers
            threads = default_threads(layers, shape.blocks, processor.cores)
            run(stages.threads_stage(thread_counts(), threads, group), group[0], _share(end, 4))
            run(stages.flash_stage(group, trials.attention), group[0], _share(end, 3))
            each = (_share(end, 2) - time.monotonic()) / BATCHES_MEASURED
            prompt = size_for(each, speed, longest).prompt
            run(stages.batch_stage(prompt, group), group[0], _share(end, 2), prompt)
        run(stages.kv_stage(shape.head_size), profiles[-1], started + seconds)
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


def applied(stage: stages.Stage, chosen: Mapping[str, str], settings: Settings) -> Settings:
    """The profiles' settings with what the chosen candidates change."""
    result = dict(settings)
    for goal in stage.goals:
        candidate = stage.candidates[chosen[goal.name]]
        changes: dict[str, Any] = {name: candidate[name] for name in goal.sets if name in candidate}
        for profile in goal.profiles:
            result[profile] = replace(result[profile], **changes)
    return result


def rows_of(stage: stages.Stage, rounds: stages.Rounds, chosen: Mapping[str, str]) -> list[Row]:
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


class Trials:
    """A loaded model that is measured with any settings. Close it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._engine: Engine | None = None
        self._asked: EngineSettings | None = None

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()
        self._engine = self._asked = None

    @property
    def attention(self) -> str:
        """Whether the model that is loaded has flash attention: on or off."""
        settings = self._engine.settings if self._engine is not None else EngineSettings()
        return "off" if settings.flash_attention == "off" else "on"

    def measure(self, settings: EngineSettings, size: Size, reload: bool) -> Sample:
        """Read and decode so many tokens; the model is loaded where reload or settings ask for it.

        The sample's load is 0 where it wasn't. Raises what Engine raises.
        """
        settings = replace(settings, context=size.prompt + size.answer)
        engine, load = self._with(settings, reload)
        if load and engine.settings.repack != settings.repack:
            self._asked = None  # the next one may have the memory
            raise DoesNotFitError("memory is too short to repack the weights")
        tokens = made_up_tokens(engine, size.prompt + size.answer)
        prefill = prefill_seconds(engine, tokens[: size.prompt])
        return Sample(load, prefill, decode_seconds(engine, tokens, size.prompt))

    def costs(self, settings: EngineSettings, depth: int, seconds: float) -> Mapping[int, float]:
        """What checking several tokens at once costs, measured for about so many seconds."""
        settings = replace(settings, outputs=MOST_ROWS, context=depth + MOST_ROWS)
        engine, _ = self._with(settings)
        engine.prefill(made_up_tokens(engine, depth))
        return learn_costs(engine, COSTS_ROUNDS, seconds).known

    def _with(self, settings: EngineSettings, reload: bool = False) -> tuple[Engine, float]:
        """The model with those settings, and the seconds of loading, 0 where it was there."""
        engine, asked, load = self._engine, self._asked, 0.0
        if engine is None or asked is None or reload or _weights(asked) != _weights(settings):
            self.close()
            started = time.perf_counter()
            engine = self._engine = Engine(self.path, settings)
            load = time.perf_counter() - started
        elif asked != settings:
            engine.reconfigure(settings)
        self._asked = settings
        return engine, load


def measure_stage(
    stage: stages.Stage,
    base: EngineSettings,
    size: Size,
    measure: Measure,
    end: float,
    clock: Callable[[], float] = time.monotonic,
) -> list[Mapping[str, Sample]]:
    """Rounds of samples by candidate, until the time is over or one candidate is left.

    Each round starts with another candidate. One that doesn't fit into memory has no samples.
    """
    running = list(stage.candidates)
    works = [goal.work for goal in stage.goals]
    rounds: list[Mapping[str, Sample]] = []
    while len(rounds) < MOST_ROUNDS:
        first = len(rounds) % len(running)
        samples = {}
        for name in running[first:] + running[:first]:
            settings = replace(base, **stage.candidates[name])
            try:
                sample = measure(settings, size, stage.reload)
            except DoesNotFitError:
                continue
            # Where loading isn't the question, it is that of the stage's first measurement alone.
            samples[name] = sample if stage.reload else replace(sample, load=0.0)
        if not samples:
            break
        rounds.append(samples)
        still = stages.in_the_running(rounds, works) if works else samples
        running = [name for name in running if name in still]
        if len(running) < 2 or clock() >= end:
            break
    return rounds


def size_for(seconds: float, speed: Sample, most_prompt: int = stages.MOST.prompt) -> Size:
    """The tokens that a measurement of so many seconds has time for."""
    prompt = int(PROMPT_SHARE * seconds / speed.prefill)
    answer = int((1 - PROMPT_SHARE) * seconds / speed.decode)
    return Size(
        min(max(prompt, stages.LEAST.prompt), most_prompt),
        min(max(answer, stages.LEAST.answer), stages.MOST.answer),
    )


def seconds_each(stage: stages.Stage, end: float, speed: Sample, now: float) -> float:
    """The time that one measurement of a stage may take, beside loading."""
    each = (end - now) / len(stage.candidates) / PLANNED_ROUNDS
    return each - speed.load if stage.reload else each


def _weights(settings: EngineSettings) -> tuple[object, ...]:
    """The settings that a loaded model can't change."""
    return settings.repack, settings.gpu_layers, settings.device, settings.mmap
