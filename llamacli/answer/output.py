"""One answer on stdout: as text or JSON, with the signals, progress and counts that shells know.

SIGINT, SIGTERM or SIGHUP ends it; what was said stays, the exit code tells.
"""

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal

from llamacli.system import ENDING, alarm
from llamacli.terminal import as_json, lively, notice, show_status, writer

if TYPE_CHECKING:
    from llamacli.answer.calling import Calling
    from llamacli.answer.result import Chunk, Result
    from llamacli.engine import Engine, ProgressCallback, SamplingSettings
    from llamacli.shape import Constraint, Grammar
    from llamacli.terminal import Write
    from llamacli.tools import ToolConstraint

PATIENCE = 0.1  # seconds that a write may go on after a signal; a reader that stalls is left then


@dataclass(frozen=True)
class OutputStyle:
    """How an answer is given: text, one JSON object, or JSON events; and what stderr hears."""

    form: Literal["text", "json", "jsonl"] = "text"
    stream: bool = True
    quiet: bool = False
    verbose: bool = False


def answer(
    engine: "Engine",
    tokens: list[int],
    sampling: "SamplingSettings",
    style: OutputStyle,
    *,
    shape: "Grammar | None" = None,
    calling: "Calling | None" = None,
    max_tokens: int | None = None,
    stop: Sequence[str] = (),
) -> "Result":
    """Answer on stdout in that style; after a signal, what was said until then."""
    from llamacli.answer.generation import generate

    start = {"model": engine.name, "quantization": engine.quantization}
    constraint = constraint_for(engine, len(tokens), max_tokens, shape=shape, calling=calling)

    def chunks(interrupted: "Callable[[], bool]") -> "Iterator[Chunk]":
        return generate(
            engine,
            tokens,
            sampling,
            max_tokens=max_tokens,
            stop=stop,
            constraint=constraint,
            spelled=calling.spelled(engine.vocabulary) if calling is not None else (),
            interrupted=interrupted,
            on_progress=progress(style.quiet),
        )

    return tell(chunks, {**start, "prompt_tokens": len(tokens)}, style, calling)


def constraint_for(
    engine: "Engine",
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


def tell(
    chunks_until: "Callable[[Callable[[], bool]], Iterator[Chunk]]",
    start: dict[str, Any],
    style: OutputStyle,
    calling: "Calling | None" = None,
    more: "Callable[[], dict[str, Any]]" = dict,
) -> "Result":
    """Write an answer's chunks on stdout; start has the model, its quantization, prompt_tokens.

    chunks_until gets what says that a signal has come, after which the chunks end. The calls of a
    calling one, as they are written in its chunks, stand in the JSON, else below the text, a line
    each. more gives what JSON has besides, at the end.
    """
    head = {name: start[name] for name in ("model", "quantization")}
    started = time.perf_counter()
    with interrupts() as arrived:
        write = arrived.around(writer(sys.stdout))
        chunks = chunks_until(lambda: bool(arrived))
        if calling is not None:
            chunks = calling.parted(chunks, lines=style.form == "text")
        if style.form == "text":
            result = write_text(chunks, write, stream=style.stream)
        elif style.form == "jsonl":
            result = write_events(chunks, write, start)
        else:
            result = _last(chunks)
        seconds = time.perf_counter() - started
        fields = {**result_fields(result, seconds), **more()}
        if calling is not None:
            fields |= calling.fields(result.text)
        if style.form == "json":
            write_json(write, {**head, **fields})
        elif style.form == "jsonl":
            write_json(write, {"event": "end", **head, **fields})
        if style.verbose:
            notice(summary(result))
    return result


def _last(chunks: "Iterator[Chunk]") -> "Result":
    result = [chunk.result for chunk in chunks][-1]
    assert result is not None
    return result


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


def write_events(chunks: "Iterator[Chunk]", write: "Write", head: dict[str, Any]) -> "Result":
    """JSON lines: a start event with head, a text event for each piece."""
    write_json(write, {"event": "start", **head})
    result: Result | None = None
    for chunk in chunks:
        if chunk.text:
            write_json(write, {"event": "text", "text": chunk.text})
        result = chunk.result or result
    assert result is not None
    return result


def write_json(write: "Write", value: dict[str, Any]) -> None:
    """One object on a line of its own."""
    write(as_json(value) + "\n")


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
    if result.drafted.tokens:
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
    limit: Callable[[], None] = lambda: None  # have the write that is under way end in PATIENCE

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
        if state.writing and state.writes == begun[-1]:
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
            for number, handler in held.items():
                signal.signal(number, handler)
    if state.arrived:
        signal.raise_signal(state.arrived[0])
    if failed is not None:
        raise failed
