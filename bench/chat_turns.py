"""Time to the first token in a chat's later turns, with and without what earlier turns evaluated.

    python -m bench.chat_turns [--model FILE] [--turn 10] [--words 40] [--runs 5]

A chat of turns with as many made-up words in each question and answer. Its last turn is asked once
with the KV cache of those before it, as `llamacli chat` does, and once with an empty one: the whole
prompt evaluated anew. They run in turn.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.checkpoint import shape_config, write_checkpoint
from convert import convert


def first_token(chat: Any, question: str) -> float:
    """Seconds to the first token of the answer; the turn is taken back."""
    started = time.perf_counter()
    list(chat.send(question))
    seconds = time.perf_counter() - started
    chat.undo()
    return seconds


def compare(model: Path, turn: int, words: int, runs: int) -> str:
    """A Markdown table of both times."""
    from llamacli.chat import ChatSession
    from llamacli.conversation import Conversation, assistant, user
    from llamacli.engine import Engine, EngineSettings
    from llamacli.sampling import SamplingSettings

    texts = [" ".join(f"word{i}" for i in range(n * words, (n + 1) * words)) for n in range(turn)]
    talk = Conversation(tuple(kind(text) for text in texts[:-1] for kind in (user, assistant)))
    kept, anew = [], []
    with Engine(model, EngineSettings(context=8192)) as engine:
        chat = ChatSession(engine, SamplingSettings(), talk, max_tokens=1)
        first_token(chat, "to fill the cache")
        for i in range(runs):
            question = f"{i} {texts[-1]}"
            kept.append(first_token(chat, question))
            assert chat.last is not None
            new = chat.last.prompt_tokens - chat.last.cached_tokens
            engine.keep(0)
            anew.append(first_token(chat, question))
            assert chat.last.cached_tokens == 0
        size = chat.last.prompt_tokens
    ratios = sorted(a / b for a, b in zip(kept, anew, strict=True))
    rows = [
        "| | seconds to the first token | lowest | highest |",
        "| --- | ---: | ---: | ---: |",
        f"| the new message alone | {statistics.median(kept):.2f} | {min(kept):.2f} "
        f"| {max(kept):.2f} |",
        f"| the whole prompt | {statistics.median(anew):.2f} | {min(anew):.2f} | {max(anew):.2f} |",
        "",
        f"Turn {turn} of a chat, {size} tokens, {new} of them new. Medians of {runs}. Ratio: "
        f"{statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f}).",
    ]
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", type=Path, help="a GGUF file; without it, one of 1B shape")
    parser.add_argument("--turn", type=int, default=10)
    parser.add_argument("--words", type=int, default=40)
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    turn, words, runs = arguments.turn, arguments.words, arguments.runs
    if arguments.model is not None:
        print(compare(arguments.model, turn, words, runs))
        return
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(Path(folder) / "checkpoint", shape_config("1b"))
        convert(Path(folder) / "checkpoint", Path(folder) / "1b.gguf", "Q4_K_M")
        print(compare(Path(folder) / "1b.gguf", turn, words, runs))


if __name__ == "__main__":
    main()
