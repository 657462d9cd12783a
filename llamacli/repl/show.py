"""An answer on the terminal as it comes; Ctrl-C ends it, and what was said is kept."""

import sys
from collections.abc import Iterator

from llamacli.answer import Chunk, Interrupts, interrupts, progress, write_text
from llamacli.prompt import Message
from llamacli.repl.state import Ask, Repl, beginning
from llamacli.system import held_keys
from llamacli.terminal import say, send, writer


def show_answer(repl: Repl, ask: Ask) -> None:
    """Let the model answer and show it; raises what asking raises, KeyboardInterrupt at Ctrl-C."""
    before = repl.session.last
    try:
        with interrupts() as arrived:
            chunks = ask(
                interrupted=lambda: bool(arrived),
                on_progress=progress(quiet=False),
                on_forget=tell_forgotten,
            )
            _show(chunks, arrived, repl.plain)
    finally:
        last = repl.session.last
        if last is not None and last is not before:
            repl.totals.add(last)
    if last is not None and last.finish_reason == "length":
        full = last.answer_tokens != repl.session.max_tokens
        say(f"(cut: {'the context is full' if full else 'max-tokens is reached'})")


def _show(chunks: Iterator[Chunk], arrived: Interrupts, plain: bool) -> None:
    if plain:
        with held_keys():
            write_text(chunks, arrived.around(writer(sys.stdout)))
        return
    from llamacli.repl.markdown import MarkdownStream

    stream = MarkdownStream(arrived.around(send))
    with held_keys(stream.restart):
        try:
            for chunk in chunks:
                stream.add(chunk.text)
        except Exception:
            stream.finish()
            raise
        stream.finish()


def tell_forgotten(messages: list[Message]) -> None:
    """Say which turns the model isn't given any more."""
    questions = [beginning(m["content"]) for m in messages if m["role"] == "user"]
    turns = "the oldest turn"
    if questions:
        turns += f", “{questions[0]}”"
    if questions[1:]:
        turns = f"the {len(questions)} oldest turns, “{questions[0]}” to “{questions[-1]}”"
    say(f"(the context is nearly full; the model no longer sees {turns})")
