"""Where a long answer's steps go: evaluating, choosing tokens, and Python around both.

    python -m bench.steps [--model FILE] [--runs 3]

Of one answer, and of several side by side once all prompts are read. An evaluation ends where its
logits are there, since a GPU computes on its own; what is neither is Python, which fills the batch
and makes text of tokens.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

from bench.compare import Outcome, Setup, Target, figure, run_alone
from llamacli.answer import generate
from llamacli.batch import BatchEngine, Job, Scheduler, prepare
from llamacli.batch.choosing import choose
from llamacli.engine import Engine, EngineSettings, SamplingSettings
from llamacli.tune.measure import made_up_tokens

PROMPT, SIDE_BY_SIDE = 32, 8
WAYS = {
    "greedy": SamplingSettings(temperature=0),
    "sampled": SamplingSettings(temperature=0.7, top_k=50, top_p=0.9, seed=1),
}


@dataclass(frozen=True)
class Step:
    """Milliseconds of the average step; evaluating has its call and the wait for the logits."""

    whole: float
    calling: float
    evaluating: float
    choosing: float

    @property
    def python(self) -> float:
        return self.whole - self.evaluating - self.choosing

    def __str__(self) -> str:
        return (
            f"{self.whole:.2f} ms a step: evaluation {self.evaluating:.2f} (llama_decode returns "
            f"after {self.calling:.2f}), choosing {self.choosing:.2f}, Python {self.python:.3f}, "
            f"{self.python / self.whole:.1%} of it"
        )


def profiled(
    engine: BatchEngine, prompts: Sequence[Sequence[int]], sampling: SamplingSettings, steps: int
) -> Step:
    """The average of so many steps with an answer to each prompt."""
    library, context = engine.library, engine.context_pointer
    scheduler, spent = Scheduler(engine), {"calling": 0.0, "waiting": 0.0, "choosing": 0.0}

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*arguments)
            finally:
                spent[name] += time.perf_counter() - started

        return call

    decode, wait = timed("calling", engine._decode), timed("waiting", library.llama_synchronize)

    def evaluate(*arguments: Any) -> Any:
        code = decode(*arguments)
        wait(context)
        return code

    for index, prompt in enumerate(prompts):
        scheduler.start(prepare(engine, index, Job(prompt, sampling, steps + len(prompts) + 99)))
    while any(running.prefilled is None for running in scheduler.running):
        scheduler.step()
    kept, engine._decode = engine._decode, evaluate
    chosen = timed("choosing", choose)
    try:
        started = time.perf_counter()
        with mock.patch("llamacli.batch.scheduler.choose", chosen):
            for _ in range(steps):
                scheduler.step()
        whole = time.perf_counter() - started
    finally:
        engine._decode = kept
        for running in list(scheduler.running):
            scheduler.leave(running)
        library.llama_memory_clear(engine.memory, False)
    calling, waiting, choosing = (1000 * spent[name] / steps for name in spent)
    return Step(1000 * whole / steps, calling, calling + waiting, choosing)


def beside_evaluating(engine: Engine, sampling: SamplingSettings, tokens: int) -> float:
    """The share of one answer's time, its prompt read, that isn't evaluation."""
    decode, spent = engine._decode, 0.0

    def evaluate(*arguments: Any) -> Any:
        nonlocal spent
        started = time.perf_counter()
        code = decode(*arguments)
        engine.library.llama_synchronize(engine.context_pointer)
        spent += time.perf_counter() - started
        return code

    prompt = made_up_tokens(engine, PROMPT)
    engine.prefill(prompt)
    engine._decode = evaluate
    try:
        result = [c.result for c in generate(engine, prompt, sampling, max_tokens=tokens)][-1]
    finally:
        engine._decode = decode
    assert result is not None
    return 1 - spent / (result.prefill_seconds + result.decode_seconds)


def measure(setup: Setup) -> Outcome:
    """One answer, and SIDE_BY_SIDE of them."""
    model, steps, settings = setup.model(), 16 if setup.quick else 64, EngineSettings(context=1024)
    alone: dict[str, list[float]] = {name: [] for name in WAYS}
    beside: dict[str, list[float]] = {name: [] for name in WAYS}
    runs = range(setup.times(3))
    with Engine(model, settings) as engine:
        for _ in runs:
            for name, sampling in WAYS.items():
                alone[name].append(100 * beside_evaluating(engine, sampling, steps))
    with BatchEngine(model, settings, SIDE_BY_SIDE) as many:
        tokens = made_up_tokens(many, SIDE_BY_SIDE * PROMPT)
        prompts = [tokens[at : at + PROMPT] for at in range(0, len(tokens), PROMPT)]
        for _ in runs:
            for name, sampling in WAYS.items():
                step = profiled(many, prompts, sampling, steps)
                beside[name].append(100 * step.python / step.whole)
    return Outcome(
        "Steps of answers, 1B shape",
        (
            *(figure(f"beside evaluating, {name}", "%", alone[name]) for name in WAYS),
            *(
                figure(
                    f"Python, {SIDE_BY_SIDE} side by side, {name}",
                    "%",
                    beside[name],
                    Target(3, most=True),
                )
                for name in WAYS
            ),
        ),
        note=f"Of the time of {steps} tokens; beside evaluating has the choice of tokens, too.",
    )


if __name__ == "__main__":
    run_alone(measure, __doc__)
