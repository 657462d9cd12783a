"""The logits after every token of a text, for measures of how well a model predicts it."""

from collections.abc import Iterator, Sequence
from ctypes import c_int8
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llamacli.engine import Engine, EngineSettings, logged_reason
from llamacli.errors import LlamacliError

STEP = 64  # tokens evaluated at once: their logits take 33 MB with Meta's vocabulary


def open_evaluator(path: Path, context: int, threads: int | None) -> Engine:
    """The model with room for context tokens and for all logits of a step. Close it."""
    settings = EngineSettings(
        context=context, threads=threads, batch=STEP, ubatch=STEP, outputs=STEP
    )
    return Engine(path, settings)


def all_logits(engine: Engine, tokens: Sequence[int]) -> Iterator[NDArray[np.float32]]:
    """The logits after each of tokens, a step at a time: float32 of shape (≤ STEP, vocabulary).

    Each is a view of llama.cpp's memory, good until the next one. Raises LlamacliError where
    llama.cpp fails.
    """
    engine.keep(0)
    engine.make_room(len(tokens))
    for start in range(0, len(tokens), STEP):
        yield _evaluate(engine, tokens[start : start + STEP])
    engine.keep(0)


def _evaluate(engine: Engine, tokens: Sequence[int]) -> NDArray[np.float32]:
    library: Any = engine.library
    count = len(tokens)
    ids = (library.llama_token * count)(*tokens)
    batch = library.llama_batch_get_one(ids, count)
    wanted = (c_int8 * count)(*[1] * count)
    batch.logits = wanted
    if code := library.llama_decode(engine.context_pointer, batch):
        raise LlamacliError(f"llama.cpp failed to evaluate (code {code}){logged_reason()}")
    values = library.llama_get_logits(engine.context_pointer)
    return np.ctypeslib.as_array(values, (count, engine.vocabulary.size))
