"""A job of a batch, from its start to its result."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from llamacli.answer import Answer, AnswerText, Result
from llamacli.engine import Engine, SamplingSettings, choose_seed, sampler_chain
from llamacli.errors import DoesNotFitError
from llamacli.shape import Constraint, Grammar, constrained


@dataclass(frozen=True)
class Job:
    """A prompt's tokens and how to answer them; max_tokens None is up to the context's end."""

    prompt: Sequence[int]
    sampling: SamplingSettings
    max_tokens: int | None = None
    stop: Sequence[str] = ()
    shape: Grammar | None = None


@dataclass
class Running:
    """A job in its sequence. evaluated of the prompt and the answer's tokens are in the cache."""

    index: int
    job: Job
    sequence: int
    answer: Answer
    chain: Any
    constraint: Constraint | None
    seed: int
    resources: ExitStack
    started: float
    evaluated: int = 0
    cached: int = 0
    prefilled: float | None = None

    @property
    def tokens(self) -> list[int]:
        return [*self.job.prompt, *self.answer.tokens]

    @property
    def length(self) -> int:
        return len(self.job.prompt) + len(self.answer.tokens)

    def token(self, at: int) -> int:
        prompt = len(self.job.prompt)
        return self.job.prompt[at] if at < prompt else self.answer.tokens[at - prompt]


def prepare(engine: Engine, index: int, job: Job) -> Running:
    """A job as it starts. Raises UsageError and DoesNotFitError, as run does for such a prompt."""
    size = engine.context_size
    if len(job.prompt) > size:
        raise DoesNotFitError(f"the prompt has {len(job.prompt)} tokens, the context {size}")
    room = size - len(job.prompt) + 1
    limit = room if job.max_tokens is None else min(job.max_tokens, room)
    seed = choose_seed(job.sampling)
    resources = ExitStack()
    try:
        constraint = None
        if job.shape is not None:
            made = constrained(engine.vocabulary, job.shape, limit)
            constraint = resources.enter_context(made)
        chain = resources.enter_context(sampler_chain(engine, job.sampling, seed, job.prompt))
    except BaseException:
        resources.close()
        raise
    answer = Answer(engine.vocabulary, limit, AnswerText(job.stop), constraint)
    return Running(index, job, 0, answer, chain, constraint, seed, resources, perf_counter())


def result(running: Running) -> Result:
    """What it came to: its text is whole, unlike a stream's; seconds are wall time in the batch."""
    answer, now = running.answer, perf_counter()
    answer.text.finish()
    prefilled = running.prefilled or now
    return Result(
        text=answer.text.given,
        tokens=tuple(answer.tokens),
        finish_reason=answer.reason or "interrupted",
        prompt_tokens=len(running.job.prompt),
        cached_tokens=running.cached,
        prefill_seconds=prefilled - running.started,
        decode_seconds=now - prefilled,
        seed=running.seed,
    )
