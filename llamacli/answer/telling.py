"""One answer on stdout: as text or JSON, with the signals, progress and counts that shells know."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from llamacli.terminal import lively, notice, show_status

if TYPE_CHECKING:
    from llamacli.answer.generation import Chunk, Result
    from llamacli.engine import Engine, ProgressCallback, SamplingSettings
    from llamacli.shape import Constraint, Grammar


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
    max_tokens: int | None = None,
    stop: Sequence[str] = (),
) -> "Result":
    """Answer on stdout in that style; after a signal, what was said until then."""
    from llamacli.answer.generation import generate

    head = {"model": engine.name, "quantization": engine.quantization}
    chunks = partial(
        generate,
        engine,
        tokens,
        sampling,
        on_progress=progress(style.quiet),
        max_tokens=max_tokens,
        constraint=constraint(engine, shape, len(tokens), max_tokens),
        stop=stop,
    )
    return tell(
        lambda interrupted: chunks(interrupted=interrupted),
        {**head, "prompt_tokens": len(tokens)},
        style,
    )


def tell(
    chunks_until: "Callable[[Callable[[], bool]], Iterator[Chunk]]",
    start: dict[str, Any],
    style: OutputStyle,
    more: "Callable[[Result], dict[str, Any]]" = lambda _: {},
) -> "Result":
    """Write an answer's chunks on stdout; start has the model, its quantization, prompt_tokens.

    more gives what JSON has of the result besides.

    chunks_until gets what says that a signal has come, after which the chunks end.
    """
    from llamacli.answer.output import result_fields, write_events, write_json, write_text
    from llamacli.answer.signals import interrupts
    from llamacli.terminal import writer

    head = {name: start[name] for name in ("model", "quantization")}
    started = time.perf_counter()
    with interrupts() as arrived:
        write = arrived.around(writer(sys.stdout))
        chunks = chunks_until(lambda: bool(arrived))
        if style.form == "text":
            result = write_text(chunks, write, stream=style.stream)
        elif style.form == "jsonl":
            result = write_events(chunks, write, start)
        else:
            result = _last(chunks)
        seconds = time.perf_counter() - started
        fields = {**result_fields(result, seconds), **more(result)}
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


def constraint(
    engine: "Engine", shape: "Grammar | None", prompt: int, max_tokens: int | None
) -> "Constraint | None":
    """The constraint for an answer to that many tokens."""
    if shape is None:
        return None
    from llamacli.shape import constrained

    return constrained(engine.vocabulary, shape, engine.most_tokens(prompt, max_tokens))


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
