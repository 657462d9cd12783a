"""Measurements for tuning: one model in memory, its candidates in turn, within a time."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from llamacli.engine import Engine, EngineSettings
from llamacli.errors import DoesNotFitError
from llamacli.speculate import MOST_ROWS
from llamacli.tune.decide import in_the_running
from llamacli.tune.measure import (
    Sample,
    Size,
    checking_costs,
    decode_seconds,
    made_up_tokens,
    prefill_seconds,
)
from llamacli.tune.stages import LEAST, MOST, Stage

PLANNED_ROUNDS, MOST_ROUNDS = 3, 6
PROMPT_SHARE = 0.7  # of a measurement's time

Measure = Callable[[EngineSettings, Size, bool], Sample]
Clock = Callable[[], float]


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

    def costs(self, settings: EngineSettings, depth: int, seconds: float) -> dict[int, float]:
        """What checking several tokens at once costs, as checking_costs has it."""
        settings = replace(settings, outputs=MOST_ROWS, context=depth + MOST_ROWS)
        return checking_costs(self._with(settings)[0], depth, seconds)

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
    stage: Stage,
    base: EngineSettings,
    size: Size,
    measure: Measure,
    end: float,
    clock: Clock = time.monotonic,
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
        still = in_the_running(rounds, works) if works else samples
        running = [name for name in running if name in still]
        if len(running) < 2 or clock() >= end:
            break
    return rounds


def size_for(seconds: float, speed: Sample, most_prompt: int = MOST.prompt) -> Size:
    """The tokens that a measurement of so many seconds has time for."""
    prompt = int(PROMPT_SHARE * seconds / speed.prefill)
    answer = int((1 - PROMPT_SHARE) * seconds / speed.decode)
    return Size(
        min(max(prompt, LEAST.prompt), most_prompt), min(max(answer, LEAST.answer), MOST.answer)
    )


def seconds_each(stage: Stage, end: float, speed: Sample, now: float) -> float:
    """The time that one measurement of a stage may take, beside loading."""
    each = (end - now) / len(stage.candidates) / PLANNED_ROUNDS
    return each - speed.load if stage.reload else each


def _weights(settings: EngineSettings) -> tuple[object, ...]:
    """The settings that a loaded model can't change."""
    return settings.repack, settings.gpu_layers, settings.device, settings.mmap
