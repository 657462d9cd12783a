"""The logits after every token of a text, for measures of how well a model predicts it."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llamacli.engine import Engine, EngineSettings, defaults
from llamacli.machine import this_processor
from llamacli.workers import Workers

STEP = 64  # tokens evaluated at once: their logits take 33 MB with Meta's vocabulary


def open_evaluator(
    path: Path,
    context: int,
    threads: int | None = None,
    *,
    step: int = STEP,
    observer: Any = None,
    shared: Workers | None = None,
    **machine: Any,
) -> Engine:
    """The model with room for context tokens and for all logits of step tokens. Close it.

    observer and shared are Engine's; machine are EngineSettings' fields that say where it runs.
    """
    asked: dict[str, Any] = {
        "context": context,
        "batch": step,
        "ubatch": step,
        "outputs": step,
        "flash_attention": "on",  # as in llama.cpp's own programs, and faster for so many at once
        **machine,
    }
    if threads is not None:
        asked["threads"] = threads
    settings = EngineSettings(**{**defaults(this_processor(), "short"), **asked})
    return Engine(path, settings, observer=observer, shared=shared)


def all_logits(engine: Engine, tokens: Sequence[int]) -> Iterator[NDArray[np.float32]]:
    """The logits after each of tokens, a step at a time: float32 of shape (≤ step, vocabulary).

    Each is a view of llama.cpp's memory, good until the next one. Raises what Engine raises.
    """
    engine.keep(0)
    engine.make_room(len(tokens))
    step = engine.settings.outputs
    for start in range(0, len(tokens), step):
        part = tokens[start : start + step]
        engine.decode_rows(part)
        values = engine.library.llama_get_logits(engine.context_pointer)
        yield np.ctypeslib.as_array(values, (len(part), engine.vocabulary.size))
    engine.keep(0)
