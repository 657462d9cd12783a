"""From a prompt's tokens to an answer, piece by piece."""

import codecs
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Literal

from llamacli.engine import Engine, Progress
from llamacli.errors import InvalidModelError, UsageError
from llamacli.sampling import SamplingSettings, choose_seed, sampler_chain

if TYPE_CHECKING:
    from llamacli.constraint import Constraint

FinishReason = Literal["stop", "length", "interrupted"]


@dataclass(frozen=True)
class Result:
    """What an answer came to.

    tokens are the answer's ids without the end token; text is what they spell, up to a stop text
    and without control tokens, which aren't text.
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
    constraint: "Constraint | None" = None,
    interrupted: Callable[[], bool] = lambda: False,
    on_progress: Progress | None = None,
) -> Iterator[Chunk]:
    """Evaluate the prompt and answer it, as text that is safe to print at once.

    A character that spans tokens comes whole, a stop text never shows, not even its start.
    The answer ends at an end token or a stop text ("stop"), at max_tokens or where the context is
    full ("length"), or once interrupted says so; with a constraint it is whole, even where it is
    cut. Raises UsageError, DoesNotFitError where
    the prompt exceeds the context, and InvalidModelError where the model computes no numbers.
    """
    if max_tokens is not None and max_tokens < 1:
        raise UsageError(f"at most {max_tokens} tokens were asked for; give 1 or more")
    if not all(stop):
        raise UsageError("a stop text is empty")
    seed = choose_seed(sampling)
    start = perf_counter()
    cached = engine.prefill(prompt, on_progress=on_progress, interrupted=interrupted)
    prefill_seconds = perf_counter() - start

    tokens: list[int] = []
    text = _Text(stop)
    reason: FinishReason = "interrupted"
    seconds = 0.0
    room = engine.context_size - len(prompt)
    limit = room + 1 if max_tokens is None else min(max_tokens, room + 1)
    sample, piece = engine.library.llama_sampler_sample, engine.vocabulary.piece
    ends, controls = engine.vocabulary.end_tokens, engine.vocabulary.control_tokens
    context = engine.context_pointer
    with sampler_chain(engine, sampling, seed, prompt) as chain:
        while len(engine.tokens) == len(prompt) + len(tokens) and not interrupted():
            start = perf_counter()
            if constraint is None:
                token = sample(chain, context, -1)
            else:
                token = constraint.choose(chain, engine.logits(), limit - len(tokens))
            seconds += perf_counter() - start
            if not tokens and not math.isfinite(engine.logit(token)):
                raise InvalidModelError(
                    f"{engine.path}: the model computes {engine.logit(token)} for its first "
                    "token; its weights are damaged, convert or fetch it again"
                )
            if token in ends:
                reason = "length" if constraint is not None and constraint.cut else "stop"
                break
            tokens.append(token)
            if token not in controls and (ready := text.add(piece(token))):
                yield Chunk(ready)
            if text.stopped:
                reason = "stop"
                break
            if constraint is not None and constraint.done:
                reason = "length" if constraint.cut else "stop"
                break
            if len(tokens) >= limit:
                reason = "length"
                break
            start = perf_counter()
            engine.decode(token)
            seconds += perf_counter() - start
    rest = text.finish()
    result = Result(
        text=text.given,
        tokens=tuple(tokens),
        finish_reason=reason,
        prompt_tokens=len(prompt),
        cached_tokens=cached,
        prefill_seconds=prefill_seconds,
        decode_seconds=seconds,
        seed=seed,
    )
    yield Chunk(rest, result)


class _Text:
    """Bytes in, printable text out: whole characters, and nothing that may begin a stop text."""

    def __init__(self, stop: Sequence[str]) -> None:
        self.stop = tuple(stop)
        self.stopped = False
        self.pieces: list[str] = []
        self.held = ""
        self.decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    @property
    def given(self) -> str:
        return "".join(self.pieces)

    def add(self, raw: bytes) -> str:
        """What can be printed now that raw has come."""
        self.held += self.decoder.decode(raw)
        ready, self.held, self.stopped = split_at_stop(self.held, self.stop)
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
    found = [at for at in map(text.find, stop) if at >= 0]
    if found:
        return text[: min(found)], "", True
    waiting = max((_overlap(text, word) for word in stop), default=0)
    return text[: len(text) - waiting], text[len(text) - waiting :], False


def _overlap(text: str, word: str) -> int:
    """The length of the longest ending of text that word begins with."""
    longest = min(len(text), len(word) - 1)
    return next((n for n in range(longest, 0, -1) if word.startswith(text[-n:])), 0)
