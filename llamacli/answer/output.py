"""What an answer comes to, and what shells know of it: text as it comes, counts, progress, signals.

Without what makes one: a server's clients import no more.
"""

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal

from llamacli.system import ENDING, alarm, takes_more
from llamacli.terminal import lively, show_status

if TYPE_CHECKING:
    from llamacli.engine import ProgressCallback
    from llamacli.speculate import Drafted
    from llamacli.terminal import Write

FinishReason = Literal["stop", "length", "interrupted", "tool_calls"]
PATIENCE = 0.1  # seconds after a signal that a reader may stall


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
    drafted: "Drafted | None" = None

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


def write_text(chunks: "Iterator[Chunk]", write: "Write", *, stream: bool = True) -> "Result":
    """The answer as it comes, or at its end, with exactly one newline after it; its result."""
    result: Result | None = None
    begun = False
    held = ""  # without stream all of it, with it newlines that may be the last ones
    try:
        for chunk in chunks:
            text = held + chunk.text
            ready = text.rstrip("\n") if stream else ""
            held = text[len(ready) :]
            if ready:
                begun = True
                write(ready)
            result = chunk.result or result
        assert result is not None
        if begun or held or result.finish_reason != "interrupted":
            write(held.rstrip("\n") + "\n")
    except Exception:
        if begun and result is None:
            write("\n")
        raise
    return result


def result_fields(result: "Result", seconds: float) -> dict[str, Any]:
    """What a Result says, as JSON has it; seconds is the wall time of prefill and decode."""
    return {
        "text": result.text,
        "finish_reason": result.finish_reason,
        "prompt_tokens": result.prompt_tokens,
        "answer_tokens": result.answer_tokens,
        "cached_tokens": result.cached_tokens,
        "seconds": round(seconds, 4),
        "tokens_per_second": round(result.tokens_per_second, 2),
        "seed": result.seed,
    }


def progress(quiet: bool) -> "ProgressCallback | None":
    """A line on a terminal's stderr that counts a long prompt's tokens and goes when it is read."""
    if quiet or not lively(sys.stderr):
        return None

    def show(done: int, total: int) -> None:
        if total > 1024:
            show_status(f"reading the prompt: {done} of {total} tokens" if done < total else "")

    return show


def summary(result: "Result") -> str:
    """An answer's counts and rates in one line."""
    read = result.prompt_tokens - result.cached_tokens
    rate = read / result.prefill_seconds if result.prefill_seconds else 0.0
    drafted = ""
    if result.drafted is not None and result.drafted.tokens:
        drafted = f", {result.drafted.accepted} of {result.drafted.tokens} drafted accepted"
    return (
        f"prompt {result.prompt_tokens} tokens, {result.cached_tokens} of them cached, read at "
        f"{rate:.1f}/s; answer {result.answer_tokens} tokens at {result.tokens_per_second:.1f}/s"
        f"{drafted}; "
        f"{result.finish_reason}; seed {result.seed}"
    )


@dataclass
class Interrupts:
    """arrived holds the numbers of the signals that have come."""

    arrived: list[int] = field(default_factory=list)
    writes: int = 0
    writing: bool = False
    limit: Callable[[], None] = lambda: None  # have the write that is under way not wait for long

    def __bool__(self) -> bool:
        return bool(self.arrived)

    def around(self, write: Callable[[str], None]) -> Callable[[str], None]:
        """The same write, left by an exception where it blocks and a signal has come or comes."""

        def watched(text: str) -> None:
            self.writes, self.writing = self.writes + 1, True
            try:
                if self.arrived:  # what an answer ends with, say
                    self.limit()
                write(text)
            finally:
                self.writing = False

        return watched


@contextlib.contextmanager
def interrupts() -> Iterator[Interrupts]:
    """Signals are noted, not raised, until the block ends, where the first is delivered.

    The second one is delivered at once. Signals that the caller's parent has us ignore stay
    ignored; in other threads than the main one nothing changes.
    """
    state = Interrupts()
    held: dict[int, Any] = {}
    begun: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield state
        return

    def arrive(number: int, frame: FrameType | None) -> None:
        state.arrived.append(number)
        if len(state.arrived) > 1:
            held[number](number, frame)
        elif state.writing:
            state.limit()

    def limit() -> None:
        begun.append(state.writes)
        start(PATIENCE)

    def give_up() -> None:
        if not state.writing or state.writes != begun[-1]:
            return
        if _stdout_takes_more():  # a slow machine has kept the write from going on
            start(PATIENCE)
            return
        number = state.arrived[-1]
        held[number](number, None)

    failed: Exception | None = None
    with alarm(give_up) as start:
        state.limit = limit
        for caught in (signal.SIGINT, *ENDING):
            if callable(signal.getsignal(caught)):
                held[caught] = signal.signal(caught, arrive)
        try:
            yield state
        except Exception as error:  # a terminal that went, say: the signal tells it better
            failed = error
        finally:
            for number, handler in reversed(held.items()):  # Ctrl-C last: it may raise now
                signal.signal(number, handler)
    if state.arrived:
        signal.raise_signal(state.arrived[0])
    if failed is not None:
        raise failed


def _stdout_takes_more() -> bool:
    with contextlib.suppress(OSError, ValueError, AttributeError):  # it is no file, say
        return takes_more(sys.stdout.fileno())
    return False
