"""From a prompt's tokens to an answer, piece by piece."""

import codecs
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING

from llamacli import engine as engines
from llamacli.answer.output import Chunk, FinishReason, Result
from llamacli.errors import UsageError
from llamacli.speculate import DraftingEngine, Lookahead

if TYPE_CHECKING:
    from llamacli.answer.calling import Calling
    from llamacli.shape import Constraint, Grammar
    from llamacli.tools import ToolConstraint


def generate(
    engine: engines.Engine,
    prompt: Sequence[int],
    sampling: engines.SamplingSettings,
    *,
    max_tokens: int | None = None,
    stop: Sequence[str] = (),
    constraint: "Constraint | ToolConstraint | None" = None,
    spelled: Container[int] = (),
    interrupted: Callable[[], bool] = lambda: False,
    on_progress: engines.ProgressCallback | None = None,
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
    seed = engines.choose_seed(sampling)
    start = perf_counter()
    cached = engine.prefill(prompt, on_progress=on_progress, interrupted=interrupted)
    prefill_seconds = perf_counter() - start

    seconds = 0.0
    answer = Answer(engine.vocabulary, limit, AnswerText(stop), constraint, spelled)
    speculation = engine.speculation if isinstance(engine, DraftingEngine) else None
    valid = constraint.valid if constraint is not None else len
    ahead, row = Lookahead(engine, prompt, speculation, valid), -1
    was_read = len(engine.tokens) == len(prompt)  # not where it was interrupted
    try:
        with engines.sampler_chain(engine, sampling, seed, prompt) as chain:
            choose = engines.chooser(engine, sampling, chain)
            while was_read and not interrupted():
                start = perf_counter()
                if constraint is None or constraint.free:
                    token = choose(row)
                else:
                    token = constraint.choose(chain, engine.logits(row), answer.left)
                seconds += perf_counter() - start
                engine.check_number(engine.logit(token, row))
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
        drafted=ahead.drafts.drafted,
    )
    yield Chunk(rest, result)


def constraint_for(
    engine: engines.Engine,
    prompt: int,
    max_tokens: int | None,
    *,
    shape: "Grammar | None" = None,
    calling: "Calling | None" = None,
) -> "Constraint | ToolConstraint | None":
    """What holds an answer to that many tokens to its calls, else to its shape.

    Over a second's work where there are many tools; it takes no more of the engine than its
    vocabulary. Raises UsageError and DoesNotFitError.
    """
    if calling is None and shape is None:
        return None
    most, held = engine.most_tokens(prompt, max_tokens), None
    if calling is not None:
        from llamacli.tools import tool_constraint  # numpy's and llguidance's 60 ms

        held = tool_constraint(
            engine.vocabulary,
            calling.tools,
            most,
            choice=calling.choice,
            parallel=calling.parallel,
            threshold=calling.threshold,
        )
    if held is None and shape is not None:
        from llamacli.shape import constrained

        return constrained(engine.vocabulary, shape, most)
    return held


@dataclass
class Answer:
    """tokens are those of the answer without the end token, at most limit; reason is None until
    its end."""

    vocabulary: engines.Vocabulary
    limit: int
    text: "AnswerText"
    constraint: "Constraint | ToolConstraint | None" = None
    spelled: Container[int] = ()
    tokens: list[int] = field(default_factory=list)
    reason: FinishReason | None = None

    @property
    def left(self) -> int:
        """How many tokens may still come."""
        return self.limit - len(self.tokens)

    def take(self, token: int) -> str:
        """The text that can be shown now that token has been chosen; sets reason at the end."""
        cut = self.constraint is not None and self.constraint.cut
        if token in self.vocabulary.end_tokens or self._is_stop(token):
            self.reason = "length" if cut else "stop"
            return ""
        self.tokens.append(token)
        ready = ""
        if self.says(token):
            if self.constraint is not None and self.constraint.uncut:
                self.text.stop = ()
            ready = self.text.add(self.vocabulary.piece(token))
        if self.text.stopped:
            self.reason = "stop"
        elif self.constraint is not None and self.constraint.done:
            self.reason = "length" if cut else "stop"
        elif not self.left:
            self.reason = "length"
        return ready

    def says(self, token: int) -> bool:
        """Whether a token is text: a control token isn't, but where an answer spells it."""
        return token not in self.vocabulary.control_tokens or token in self.spelled

    def _is_stop(self, token: int) -> bool:
        """Whether a control token, which is no text, has the spelling of a stop text."""
        if not self.text.stop or token not in self.vocabulary.control_tokens:
            return False
        return self.vocabulary.piece(token).decode(errors="replace") in self.text.stop


class AnswerText:
    """Bytes in, printable text out: whole characters, and nothing that may begin a stop text."""

    def __init__(self, stop: Sequence[str]) -> None:
        self.stop = tuple(stop)
        self.stopped = False
        self.stop_text: str | None = None  # the one that has come
        self.pieces: list[str] = []
        self.held = ""
        self.decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    @property
    def given(self) -> str:
        return "".join(self.pieces)

    def add(self, raw: bytes) -> str:
        """What can be printed now that raw has come."""
        self.held += self.decoder.decode(raw)
        text = self.held
        ready, self.held, self.stopped = split_at_stop(text, self.stop)
        if self.stopped:
            self.stop_text = next(w for w in self.stop if text.startswith(w, len(ready)))
        self.pieces.append(ready)
        return ready

    def finish(self) -> str:
        """What was held back and turned out harmless; half a character is dropped."""
        rest, self.held = ("" if self.stopped else self.held), ""
        self.pieces.append(rest)
        return rest


def split_at_stop(text: str, stop: Sequence[str]) -> tuple[str, str, bool]:
    """(what may be shown, what must wait, whether a stop text has come).

    The earliest stop text ends the text. Without one, the longest ending that could begin a stop
    text waits.
    """
    if not stop:
        return text, "", False
    places = [at for at in map(text.find, stop) if at >= 0]
    if places:
        return text[: min(places)], "", True
    waiting = max((_overlap(text, word) for word in stop), default=0)
    return text[: len(text) - waiting], text[len(text) - waiting :], False


def _overlap(text: str, word: str) -> int:
    """The length of the longest ending of text that word begins with."""
    longest = min(len(text), len(word) - 1)
    return next((n for n in range(longest, 0, -1) if word.startswith(text[-n:])), 0)
