"""An answer on the terminal as it comes; Ctrl-C ends it, and what was said is kept."""

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from llamacli.commands.answering import progress
from llamacli.generate import Chunk
from llamacli.interrupts import interrupts
from llamacli.messages import Message
from llamacli.output import write_text, writer
from llamacli.repl.keys import held_keys
from llamacli.repl.state import Ask, Repl, beginning, say

if TYPE_CHECKING:
    from llamacli.repl.markdown import MarkdownStream


def show_answer(repl: Repl, ask: Ask) -> None:
    """Let the model answer and show it; raises what asking raises, KeyboardInterrupt at Ctrl-C."""
    with interrupts() as arrived:
        chunks = ask(
            interrupted=lambda: bool(arrived),
            on_progress=progress(quiet=False),
            on_forget=tell_forgotten,
        )
        if repl.plain:
            with held_keys():
                write_text(chunks, arrived.around(writer(sys.stdout)))
        else:
            from llamacli.repl.markdown import MarkdownStream

            stream = MarkdownStream(arrived.around(send))
            with held_keys(stream.restart):
                _show_markdown(chunks, stream)
    last = repl.session.last
    if last is not None:
        repl.totals.add(last)
    if last is not None and last.finish_reason == "length":
        full = last.answer_tokens != repl.session.max_tokens
        say(f"(cut: {'the context is full' if full else 'max-tokens is reached'})")


def tell_forgotten(messages: list[Message]) -> None:
    """Say which turns the model no longer knows."""
    questions = [message for message in messages if message["role"] == "user"]
    count = f"{len(questions)} oldest turns" if len(questions) != 1 else "oldest turn"
    first = beginning(questions[0]["content"]) if questions else ""
    say(f"(the context is full: the {count} from “{first}” on no longer count)")


def show_text(repl: Repl, text: str) -> None:
    """A text that is there already, as an answer would look."""
    if repl.plain:
        writer(sys.stdout)(text.rstrip("\n") + "\n")
        return
    from llamacli.repl.markdown import MarkdownStream

    _show_markdown(iter([Chunk(text)]), MarkdownStream(send))


def _show_markdown(chunks: Iterator[Chunk], stream: "MarkdownStream") -> None:
    try:
        for chunk in chunks:
            stream.add(chunk.text)
    finally:
        stream.finish()


def send(text: str) -> None:
    """Raw text to the terminal."""
    sys.stdout.write(text)
    sys.stdout.flush()
