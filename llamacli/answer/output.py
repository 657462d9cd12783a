"""Answers on their way out: text for pipes and terminals, JSON for programs."""

from collections.abc import Iterator
from typing import Any

from llamacli.answer.generation import Chunk, Result
from llamacli.terminal import Write, as_json


def write_text(chunks: Iterator[Chunk], write: Write, *, stream: bool = True) -> Result:
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


def write_events(chunks: Iterator[Chunk], write: Write, head: dict[str, Any]) -> Result:
    """JSON lines: a start event with head, a text event for each piece."""
    write_json(write, {"event": "start", **head})
    result: Result | None = None
    for chunk in chunks:
        if chunk.text:
            write_json(write, {"event": "text", "text": chunk.text})
        result = chunk.result or result
    assert result is not None
    return result


def write_json(write: Write, value: dict[str, Any]) -> None:
    """One object on a line of its own."""
    write(as_json(value) + "\n")


def result_fields(result: Result, seconds: float) -> dict[str, Any]:
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
