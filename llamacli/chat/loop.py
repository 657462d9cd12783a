"""A turn with calls: answers and results in turn, until an answer that calls nothing."""

from collections.abc import Callable, Iterator
from typing import Any, Unpack

from llamacli.answer import Chunk
from llamacli.chat.turns import ChatSession, Hooks

LIMIT = "Error: not called, for the limit of {} calls is reached; answer from what there is."

Perform = Callable[[str, dict[str, Any]], str]


def perform_calls(session: ChatSession, perform: Perform) -> int:
    """Give each call of the last answer its result; how many there were.

    perform gets a name and arguments. What it raises ends the turn.
    """
    calls = session.pending()
    for call in calls:
        if session.calls_left() < 1:
            session.give(call, LIMIT.format(session.most_calls))
            continue
        session.give(call, perform(call["function"]["name"], call["function"]["arguments"]))
    return len(calls)


def final_answer(
    session: ChatSession, question: str, perform: Perform, **hooks: Unpack[Hooks]
) -> Iterator[Chunk]:
    """Ask, call what the model calls, and give the last answer alone, in one piece."""
    chunks = session.send(question, **hooks)
    while True:
        text = "".join(chunk.text for chunk in chunks)
        if session.last is None or session.last.finish_reason == "interrupted":
            break
        if not perform_calls(session, perform):
            break
        chunks = session.go_on(**hooks)
    assert session.last is not None
    yield Chunk(text, session.last)
