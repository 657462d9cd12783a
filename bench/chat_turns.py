"""Time to the first token in a chat's later turns, with and without what earlier turns evaluated.

    python -m bench.chat_turns [--model FILE] [--runs 5]

A chat of turns with as many made-up words in each question and answer. Its last turn is asked once
with the KV cache of those before it, as `llamacli chat` does, and once with an empty one: the whole
prompt evaluated anew. They run in turn.
"""

import itertools
import time
from typing import Any

from bench.compare import Outcome, Setup, figure, in_turn, ratio, run_alone

TURN, WORDS = 10, 40


def first_token(chat: Any, question: str) -> float:
    """Seconds to the first token of the answer; the turn is taken back."""
    started = time.perf_counter()
    list(chat.send(question))
    seconds = time.perf_counter() - started
    chat.undo()
    return seconds


def measure(setup: Setup) -> Outcome:
    from llamacli.chat.conversation import Conversation, assistant, user
    from llamacli.chat.turns import ChatSession
    from llamacli.engine.engine import Engine
    from llamacli.engine.sampling import SamplingSettings
    from llamacli.engine.settings import EngineSettings

    turn, words = (2, 4) if setup.quick else (TURN, WORDS)
    texts = [" ".join(f"word{i}" for i in range(n * words, (n + 1) * words)) for n in range(turn)]
    talk = Conversation(tuple(kind(text) for text in texts[:-1] for kind in (user, assistant)))
    with Engine(setup.model(), EngineSettings(context=8192)) as engine:
        chat = ChatSession(engine, SamplingSettings(), talk, max_tokens=1)
        first_token(chat, "to fill the cache")
        number, new = itertools.count(), []

        def kept() -> float:
            seconds = first_token(chat, f"{next(number)} {texts[-1]}")
            assert chat.last is not None
            new.append(chat.last.prompt_tokens - chat.last.cached_tokens)
            return seconds

        def anew() -> float:
            engine.keep(0)
            seconds = first_token(chat, f"{next(number)} {texts[-1]}")
            assert chat.last is not None and chat.last.cached_tokens == 0
            return seconds

        results = in_turn({"the new message alone": kept, "the whole prompt": anew}, setup.times(5))
        assert chat.last is not None
        size = chat.last.prompt_tokens
    alone, whole = results.values()
    return Outcome(
        f"Turn {turn} of a chat, 1B shape",
        tuple(figure(f"{name}, first token", "seconds", times) for name, times in results.items()),
        (ratio("the new message alone to the whole prompt", alone, whole),),
        f"{size} tokens, {max(new)} of them new.",
    )


if __name__ == "__main__":
    run_alone(measure, __doc__)
