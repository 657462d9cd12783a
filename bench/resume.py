"""Time to the first token of a resumed chat, with its KV cache from disk and read again.

    python -m bench.resume [--model FILE] [--runs 3]

Both begin with the model loaded and its KV cache empty, and take the session's file, its prompt's
tokens, the new message and the choice of a token; one restores the KV cache, the other evaluates
all. They run in turn; the files are in the system's page cache.
"""

import os
import time
from itertools import count
from pathlib import Path
from typing import Any

from bench.compare import Outcome, Setup, Target, apart, figure, ratio, run_alone

TOKENS, TURNS = 4000, 10
NAME = "bench"


def conversation(engine: Any, tokens: int) -> Any:
    """Turns of made-up words whose prompt has at least that many tokens."""
    from llamacli.chat.conversation import Conversation, assistant, user
    from llamacli.prompt.encode import encode_turns

    for words in count(1):
        text = " ".join(f"word{i} is a word" for i in range(words))
        messages = [kind(f"{i} {text}") for i in range(TURNS) for kind in (user, assistant)]
        if len(encode_turns(engine, messages)) >= tokens:
            break
    return Conversation(tuple(messages))


def first_token(engine: Any, question: str, *, cached: bool) -> tuple[float, Any]:
    """Seconds from the session's name to the first token of the answer, and its result."""
    from llamacli.chat.saved import restore_cache, resume
    from llamacli.chat.turns import ChatSession
    from llamacli.engine.sampling import SamplingSettings

    engine.keep(0)
    started = time.perf_counter()
    session = resume(NAME, print)
    assert session.log is not None
    chat = ChatSession(engine, SamplingSettings(), session.conversation, max_tokens=1)
    if cached:
        assert restore_cache(engine, NAME, chat.prompt_tokens()) is None
    list(chat.send(question))
    seconds = time.perf_counter() - started
    session.log.close()
    return seconds, chat.last


def measure(setup: Setup) -> Outcome:
    tokens = 200 if setup.quick else TOKENS
    return apart(compare, setup.model(), setup.folder / "store", tokens, setup.times(3))


def compare(model: Path, store: Path, tokens: int, runs: int) -> Outcome:
    """Both ways in a process of its own, whose store is that folder."""
    from llamacli.chat.file import SessionHead
    from llamacli.chat.saved import create, save_cache
    from llamacli.chat.turns import ChatSession
    from llamacli.engine.engine import Engine
    from llamacli.engine.sampling import SamplingSettings
    from llamacli.engine.settings import EngineSettings

    os.environ["LLAMACLI_HOME"] = str(store)
    resumed, again = [], []
    with Engine(model, EngineSettings(context=tokens + 1024)) as engine:
        talk = conversation(engine, tokens)
        log = create(NAME, SessionHead(model.stem), print)
        for step in talk.steps():
            log.record(step)
        log.close()
        engine.prefill(ChatSession(engine, SamplingSettings(), talk).prompt_tokens())
        started = time.perf_counter()
        assert save_cache(engine, NAME) is None
        saving = time.perf_counter() - started
        for i in range(runs):
            seconds, read = first_token(engine, f"And what is word {i}?", cached=False)
            again.append(seconds)
            seconds, restored = first_token(engine, f"And what is word {i}?", cached=True)
            resumed.append(seconds)
            assert read.cached_tokens == 0 and restored.cached_tokens >= tokens - 8
    return Outcome(
        f"A resumed chat of {tokens} tokens, 1B shape",
        (
            figure("resumed, first token", "seconds", resumed),
            figure("read again, first token", "seconds", again),
        ),
        (ratio("resumed to read again", resumed, again, Target(0.05, most=True)),),
        f"{read.prompt_tokens} tokens, of which the new message and its markers are "
        f"{restored.prompt_tokens - restored.cached_tokens}; the KV cache was saved in "
        f"{saving:.2f} s.",
    )


if __name__ == "__main__":
    run_alone(measure, __doc__)
