"""A job of a batch, from its start to its result."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Any

from llamacli.answer import Answer, AnswerText, Result, constraint_for
from llamacli.batch.engine import Part
from llamacli.engine import Engine, SamplingSettings, Scales, choose_seed, chooser, sampler_chain
from llamacli.errors import LlamacliError
from llamacli.speculate import Drafts

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from llamacli.answer import Calling
    from llamacli.shape import Constraint, Grammar
    from llamacli.tools import ToolConstraint


@dataclass(frozen=True)
class TokenLogprob:
    """A chosen token's natural logarithm of its probability, and the likeliest ones' beside it.

    The probabilities are the model's own, before penalties, temperature and cuts.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Job:
    """A prompt's tokens and how to answer them; max_tokens None is up to the context's end.

    logprobs asks for probabilities, and for those of so many of the likeliest tokens. exact
    evaluates it alone, in the shapes that a single run has, so that no other job changes its
    answer; only where its cells lie in the cache can change the last bits of a sum. chat names the
    conversation that it belongs to, which exact ones go on from as an engine would. scales are of
    the engine's LoRA adapters; None is as they were asked for. constraint is what holds this
    answer and no other; without one it is made as the job starts.
    """

    prompt: Sequence[int]
    sampling: SamplingSettings
    max_tokens: int | None = None
    stop: Sequence[str] = ()
    shape: "Grammar | None" = None
    calling: "Calling | None" = None  # what it may call; the text is parted by whoever gets it
    logprobs: int | None = None
    exact: bool = False
    chat: str | None = None
    scales: Scales | None = None
    constraint: "Constraint | ToolConstraint | None" = None


@dataclass
class Running:
    """A job in its sequence. evaluated of the prompt and the answer's tokens are in the cache."""

    index: int
    job: Job
    sequence: int
    answer: Answer
    chain: Any
    choose: Callable[..., int]
    constraint: "Constraint | ToolConstraint | None"
    seed: int
    resources: ExitStack
    started: float
    scales: Scales = ()
    evaluated: int = 0
    cached: int = 0
    prefilled: float | None = None
    logprobs: list[TokenLogprob] = field(default_factory=list)
    error: LlamacliError | None = None
    drafts: Drafts | None = None
    spare: int = 0  # cells after the evaluated ones, of what is or was drafted

    @property
    def tokens(self) -> list[int]:
        return [*self.job.prompt, *self.answer.tokens]

    @property
    def held(self) -> bool:
        """Whether it is a call, and held to that."""
        return self.job.calling is not None and bool(self.constraint and self.constraint.uncut)

    @property
    def is_unconstrained(self) -> bool:
        """Whether any token may come next."""
        return self.constraint is None or self.constraint.free

    @property
    def length(self) -> int:
        return len(self.job.prompt) + len(self.answer.tokens)

    @property
    def proposed(self) -> list[int]:
        """What is drafted after its tokens."""
        return self.drafts.proposed if self.drafts is not None else []

    def next(self, count: int) -> Part:
        """That many of its next tokens; where they are all there are, with logits, and a draft."""
        start, end = self.evaluated, self.evaluated + count
        answer, prompt = self.answer.tokens, len(self.job.prompt)
        tokens = [*self.job.prompt[start:end]] if start < prompt else []
        if end > prompt:
            tokens += answer[max(start - prompt, 0) : end - prompt]
        if end < prompt + len(answer):
            return Part(self.sequence, start, tokens)
        proposed = self.proposed
        return Part(self.sequence, start, tokens + proposed, 1 + len(proposed))


def prepare(engine: Engine, index: int, job: Job) -> Running:
    """A job as it starts. Raises UsageError and DoesNotFitError, as run does for such a prompt."""
    limit = engine.most_tokens(len(job.prompt), job.max_tokens)
    seed = choose_seed(job.sampling)
    resources = ExitStack()
    try:
        constraint = job.constraint or constraint_of(engine, job)
        chain = resources.enter_context(sampler_chain(engine, job.sampling, seed, job.prompt))
    except BaseException:
        resources.close()
        raise
    spelled = job.calling.spelled(engine.vocabulary) if job.calling is not None else ()
    answer = Answer(engine.vocabulary, limit, AnswerText(job.stop), constraint, spelled)
    choose = chooser(engine, job.sampling, chain)
    started = perf_counter()
    scales = scales_of(engine, job)
    return Running(
        index, job, 0, answer, chain, choose, constraint, seed, resources, started, scales
    )


def scales_of(engine: Engine, job: Job) -> Scales:
    """Of the engine's adapters, what a job is to be answered with."""
    if job.scales is not None:
        return job.scales
    return tuple(choice.scale for choice in engine.settings.adapters)


def constraint_of(engine: Engine, job: Job) -> "Constraint | ToolConstraint | None":
    """What holds the job's answer, made anew, as constraint_for makes it."""
    prompt, shape, calling = len(job.prompt), job.shape, job.calling
    return constraint_for(engine, prompt, job.max_tokens, shape=shape, calling=calling)


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
        stop_text=answer.text.stop_text,
        drafted=running.drafts.drafted if running.drafts is not None else None,
    )


def token_logprob(logits: "NDArray[np.float32]", token: int, top: int) -> TokenLogprob:
    """The token's and the top ones' log-probabilities by logits of shape (vocabulary,)."""
    import numpy as np

    peak = logits.max()
    total = float(peak) + float(np.log(np.exp(logits - peak, dtype=np.float64).sum()))
    likeliest = np.argpartition(logits, -top)[-top:] if top else np.empty(0, np.int64)
    likeliest = likeliest[np.argsort(-logits[likeliest], kind="stable")]
    pairs = tuple((int(i), float(logits[i]) - total) for i in likeliest)
    return TokenLogprob(token, float(logits[token]) - total, pairs)
