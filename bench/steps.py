"""Where the steps of answers side by side go: evaluating, choosing tokens, and Python around both.

    python -m bench.steps MODEL [--parallel 8 32] [--steps 64]

Counted are steps that only answer, once all prompts are read. An evaluation ends where its logits
are there, since a GPU computes on its own; what is neither is Python, which fills the batch and
makes text of tokens.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from llamacli.batch import BatchEngine, Job, Scheduler, prepare
from llamacli.batch.choosing import choose
from llamacli.engine import EngineSettings, SamplingSettings
from llamacli.tune.measure import made_up_tokens

PROMPT = 32


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


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--parallel", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--context", type=int, default=512)
    given = parser.parse_args()
    for parallel in given.parallel:
        settings = EngineSettings(context=given.context)
        with BatchEngine(given.model, settings, parallel) as engine:
            tokens = made_up_tokens(engine, parallel * PROMPT)
            prompts = [tokens[i * PROMPT : (i + 1) * PROMPT] for i in range(parallel)]
            for name, sampling in WAYS.items():
                print(f"{parallel} {name}: {profiled(engine, prompts, sampling, given.steps)}")


WAYS = {
    "greedy": SamplingSettings(temperature=0),
    "sampled": SamplingSettings(temperature=0.7, top_k=50, top_p=0.9, seed=1),
}

if __name__ == "__main__":
    main()
