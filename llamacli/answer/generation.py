"""From a prompt's tokens to an answer, piece by piece."""

import math
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING

from llamacli.answer.text import Answer, AnswerText, FinishReason
from llamacli.engine import (
    Engine,
    ProgressCallback,
    SamplingSettings,
    choose_seed,
    chooser,
    sampler_chain,
)
from llamacli.errors import InvalidModelError, UsageError
from llamacli.speculate import Drafted, DraftingEngine, Lookahead

if TYPE_CHECKING:
    from llamacli.shape import Constraint
    from llamacli.tools import ToolConstraint


@dataclass(frozen=True)
class Result:
    """What an answer came to.

    tokens are the answer's ids without the end token; text is what they spell, up to a stop text
    and without control tokens, which aren't text. stop_text is the one that ended it.
    cached_tokens of the prompt_tokens were in the KV cache already. decode_seconds counts choosing
    and evaluating tokens, not what the caller does between them.
    """

    text: str
    tokens: tuple[int, ...]
    finish_reason: FinishReason
    prompt_tokens: int
    cached_tokens: int
    prefill_seconds: float
    decode_seconds: float
    seed: int
    stop_text: str | None = None
    drafted: Drafted = field(default_factory=Drafted)

    @property
    def answer_tokens(self) -> int:
        return len(self.tokens)

    @property
    def tokens_per_second(self) -> float:
        """Decode rate; 0 where nothing was decoded."""
        return self.answer_tokens / self.decode_seconds if self.decode_seconds else 0.0


@dataclass(frozen=True)
class Chunk:
    """A piece of the answer's text; the last one, whose text may be empty, carries the result."""

    text: str
    result: Result | None = None


def generate(
    engine: Engine,
    prompt: Sequence[int],
    sampling: SamplingSettings,
    *,
    max_tokens: int | None = None,
    stop: Sequence[str] = (),
    constraint: "Constraint | ToolConstraint | None" = None,
    spelled: Container[int] = (),
    interrupted: Callable[[], bool] = lambda: False,
    on_progress: ProgressCallback | None = None,
) -> Iterator[Chunk]:
    """Evaluate the prompt and answer it, as text that is safe to print at once.

    A character that spans tokens comes whole, a stop text never shows, not even its start.
    The answer ends at an end token or a stop text ("stop"), at max_tokens or where the context is
    full ("length"), or once interrupted says so; with a constraint it is whole, even where it is
    cut. Control tokens that are spelled stand in the text. A drafting engine takes fewer
    evaluations for the same answer. Raises UsageError, DoesNotFitError where the prompt exceeds the
    context, and InvalidModelError where the model computes no numbers.
    """
    limit = engine.most_tokens(len(prompt), max_tokens)
    if not all(stop):
        raise UsageError("a stop text is empty")
    seed = choose_seed(sampling)
    start = perf_counter()
    cached = engine.prefill(prompt, on_progress=on_progress, interrupted=interrupted)
    prefill_seconds = perf_counter() - start

    seconds = 0.0
    answer = Answer(engine.vocabulary, limit, AnswerText(stop), constraint, spelled)
    speculation = engine.speculation if isinstance(engine, DraftingEngine) else None
    ahead, row = Lookahead(engine, prompt, speculation), -1
    was_read = len(engine.tokens) == len(prompt)  # not where it was interrupted
    try:
        with sampler_chain(engine, sampling, seed, prompt) as chain:
            choose = chooser(engine, sampling, chain)
            while was_read and not interrupted():
                start = perf_counter()
                if constraint is None or constraint.free:
                    token = choose(row)
                else:
                    token = constraint.choose(chain, engine.logits(row), answer.left)
                seconds += perf_counter() - start
                if not answer.tokens and not math.isfinite(value := engine.logit(token, row)):
                    raise InvalidModelError(
                        f"{engine.path}: the model computes {value} for its first token; its "
                        "weights are damaged, convert or fetch it again"
                    )
                if ready := answer.take(token):
                    yield Chunk(ready)
                if answer.reason is not None:
                    break
                start = perf_counter()
                row = ahead.advance(token, answer.left - 1)
                seconds += perf_counter() - start
    finally:
        ahead.finish()
    rest = answer.text.finish()
    result = Result(
        text=answer.text.given,
        tokens=tuple(answer.tokens),
        finish_reason=answer.reason or "interrupted",
        prompt_tokens=len(prompt),
        cached_tokens=cached,
        prefill_seconds=prefill_seconds,
        decode_seconds=seconds,
        seed=seed,
        stop_text=answer.text.stop_text,
        drafted=ahead.drafted,
    )
    yield Chunk(rest, result)
