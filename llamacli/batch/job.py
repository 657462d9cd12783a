"""A job of a batch, from its start to its result."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Any

from llamacli.answer import Answer, AnswerText, Result, constraint_for
from llamacli.engine import (
    Engine,
    Part,
    SamplingSettings,
    Scales,
    choose_seed,
    chooser,
    sampler_chain,
)
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


@dataclass(eq=False)
class Running:
    """A job in its sequence. evaluated of tokens, the prompt's and the answer's, are in the cache;
    proposed are drafted after them."""

    index: int
    job: Job
    answer: Answer
    chain: Any
    choose: Callable[..., int]
    seed: int
    resources: ExitStack
    started: float
    scales: Scales
    tokens: list[int]
    sequence: int = -1  # of none yet
    evaluated: int = 0
    cached: int = 0
    prefilled: float | None = None
    logprobs: list[TokenLogprob] = field(default_factory=list)
    error: LlamacliError | None = None
    drafts: Drafts | None = None
    spare: int = 0  # cells after the evaluated ones, of what is or was drafted

    @property
    def held(self) -> bool:
        """Whether it is a call, and held to that."""
        constraint = self.answer.constraint
        return self.job.calling is not None and constraint is not None and constraint.uncut

    @property
    def is_quick(self) -> bool:
        """Whether its next token is soon found among all."""
        constraint = self.answer.constraint
        return self.job.sampling.looks_for_likeliest and (constraint is None or constraint.free)

    @property
    def left(self) -> int:
        """How many of its tokens are to be evaluated; 1 where it waits for its next one."""
        return len(self.tokens) - self.evaluated

    @property
    def proposed(self) -> list[int]:
        return self.drafts.proposed if self.drafts is not None else []

    def next(self, count: int) -> Part:
        """That many of its next tokens; where they are all there are, with logits, and a draft."""
        start = self.evaluated
        tokens = self.tokens[start : start + count]
        if count < self.left:
            return Part(self.sequence, start, tokens)
        proposed = self.proposed
        return Part(self.sequence, start, tokens + proposed, 1 + len(proposed))

    def take(self, token: int, logits: "NDArray[np.float32]") -> str:
        """The text that can be shown now that token was chosen by these logits."""
        if self.prefilled is None:
            self.prefilled = perf_counter()
        asked = self.job.logprobs
        if asked is not None and token not in self.answer.vocabulary.end_tokens:
            self.logprobs.append(token_logprob(logits, token, asked))
        if self.drafts is not None:
            self.drafts.lookup.extend((token,))
        self.tokens.append(token)
        return self.answer.take(token)


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
    return Running(
        index,
        job,
        Answer(engine.vocabulary, limit, AnswerText(job.stop), constraint, spelled),
        chain,
        chooser(engine, job.sampling, chain),
        seed,
        resources,
        perf_counter(),
        scales_of(engine, job),
        [*job.prompt],
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
