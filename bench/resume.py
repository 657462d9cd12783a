"""Time to the first token of a resumed chat, with its KV cache from disk and read again.

    python -m bench.resume [--model FILE] [--tokens 4000] [--runs 3]

Both begin with the model loaded and its KV cache empty, and take the session's file, its prompt's
tokens, the new message and the choice of a token; one restores the KV cache, the other evaluates
all. They run in turn; the files are in the system's page cache.
"""

import argparse
import os
import statistics
import tempfile
import time
from itertools import count
from pathlib import Path
from typing import Any

from bench.checkpoint import shape_config, write_checkpoint
from convert import convert

TURNS = 10
NAME = "bench"


def conversation(engine: Any, tokens: int) -> Any:
    """Turns of made-up words whose prompt has at least that many tokens."""
    from llamacli.chat import encode_turns
    from llamacli.conversation import Conversation, assistant, user

    for words in count(1):
        text = " ".join(f"word{i} is a word" for i in range(words))
        messages = [kind(f"{i} {text}") for i in range(TURNS) for kind in (user, assistant)]
        if len(encode_turns(engine, messages)) >= tokens:
            break
    return Conversation(tuple(messages))


def first_token(engine: Any, question: str, *, cached: bool) -> tuple[float, Any]:
    """Seconds from the session's name to the first token of the answer, and its result."""
    from llamacli.chat import ChatSession
    from llamacli.sampling import SamplingSettings
    from llamacli.sessions import restore_cache, resume

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


def compare(model: Path, tokens: int, runs: int) -> str:
    """A Markdown table of both times."""
    from llamacli.chat import ChatSession
    from llamacli.engine import Engine, EngineSettings
    from llamacli.sampling import SamplingSettings
    from llamacli.sessions import SessionHead, create, save_cache

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
            seconds, found = first_token(engine, f"And what is word {i}?", cached=True)
            resumed.append(seconds)
            assert read.cached_tokens == 0 and found.cached_tokens >= tokens - 8
    ratios = sorted(a / b for a, b in zip(resumed, again, strict=True))
    rows = [
        "| | seconds to the first token | lowest | highest |",
        "| --- | ---: | ---: | ---: |",
        f"| resumed | {statistics.median(resumed):.2f} | {min(resumed):.2f} | {max(resumed):.2f} |",
        f"| read again | {statistics.median(again):.2f} | {min(again):.2f} | {max(again):.2f} |",
        "",
        f"A chat of {read.prompt_tokens} tokens, of which the new message and its markers are "
        f"{found.prompt_tokens - found.cached_tokens}; the KV cache was saved in {saving:.2f} s. "
        f"Medians of {runs}. Ratio: "
        f"{statistics.median(ratios):.4f} ({ratios[0]:.4f} to {ratios[-1]:.4f}).",
    ]
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", type=Path, help="a GGUF file; without it, one of 1B shape")
    parser.add_argument("--tokens", type=int, default=4000)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LLAMACLI_HOME"] = folder
        model = arguments.model
        if model is None:
            model = Path(folder) / "1b.gguf"
            write_checkpoint(Path(folder) / "checkpoint", shape_config("1b"))
            convert(Path(folder) / "checkpoint", model, "Q4_K_M")
        print(compare(model, arguments.tokens, arguments.runs))


if __name__ == "__main__":
    main()
