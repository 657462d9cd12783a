"""What is measured of a loaded model: seconds a token of prefill and decode, and peak memory.

The tokens are made up: llama.cpp's work doesn't depend on which they are.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llamacli.system import peak_resident

if TYPE_CHECKING:
    from llamacli.engine import Engine


@dataclass(frozen=True)
class Size:
    """Tokens read in bulk and tokens decoded in one measurement."""

    prompt: int
    answer: int


@dataclass(frozen=True)
class Sample:
    """One measurement: load in seconds, prefill and decode in seconds a token; 0 is unmeasured."""

    load: float = 0.0
    prefill: float = 0.0
    decode: float = 0.0


def made_up_tokens(engine: "Engine", count: int) -> list[int]:
    """count ordinary tokens in an order without a pattern, the same ones every time."""
    size = max(engine.vocabulary.size * 3 // 4, 1)
    return [(i * 7919 + 4099) % size for i in range(count)]


def prefill_seconds(engine: "Engine", tokens: Sequence[int], depth: int = 0) -> float:
    """Seconds a token to read tokens[depth:] where the ones before are in the KV cache."""
    _fill(engine, tokens[:depth])
    started = time.perf_counter()
    engine.prefill(tokens)
    engine.logit(0)  # waits for a device that computes on its own
    return (time.perf_counter() - started) / (len(tokens) - depth)


def decode_seconds(engine: "Engine", tokens: Sequence[int], depth: int) -> float:
    """Seconds a token to evaluate tokens[depth:] one by one after the ones before."""
    _fill(engine, tokens[:depth])
    started = time.perf_counter()
    for token in tokens[depth:]:
        engine.decode(token)
        engine.logit(0)
    return (time.perf_counter() - started) / (len(tokens) - depth)


def _fill(engine: "Engine", tokens: Sequence[int]) -> None:
    engine.make_room(engine.context_size)  # not while the clock runs
    if engine.tokens[: len(tokens)] == list(tokens):
        engine.keep(len(tokens))
    else:
        engine.prefill(tokens)


@dataclass(frozen=True)
class Spread:
    """The median of several measurements, and their range."""

    median: float
    lowest: float
    highest: float


@dataclass(frozen=True)
class AtDepth:
    """Tokens a second, read in bulk and decoded, where depth tokens are in the KV cache."""

    depth: int
    prefill: Spread
    decode: Spread


@dataclass(frozen=True)
class Bench:
    """Loading, and loading and reading a prompt up to an answer's first logits; rates; memory."""

    load_seconds: Spread
    first_token_seconds: Spread
    peak_memory_bytes: int
    rates: tuple[AtDepth, ...]


def bench(
    open_engine: Callable[[], "Engine"], depths: Sequence[int], size: Size, runs: int
) -> Bench:
    """Measure runs times, each quantity after the other, the deepest last.

    The engine's context must hold the deepest and size. Raises what Engine raises.
    """
    loads, firsts, rates = [], [], list[AtDepth]()
    for run in range(runs):
        started = time.perf_counter()
        with open_engine() as engine:
            loads.append(time.perf_counter() - started)
            engine.prefill(made_up_tokens(engine, size.prompt))
            engine.logit(0)
            firsts.append(time.perf_counter() - started)
            if run == runs - 1:
                rates = [_at_depth(engine, depth, size, runs) for depth in sorted(depths)]
    return Bench(spread(loads), spread(firsts), peak_resident(), tuple(rates))


def spread(values: Sequence[float]) -> Spread:
    return Spread(statistics.median(values), min(values), max(values))


def _at_depth(engine: "Engine", depth: int, size: Size, runs: int) -> AtDepth:
    prefill, decode = [], []
    tokens = made_up_tokens(engine, depth + max(size.prompt, size.answer))
    for _ in range(runs):
        prefill.append(1 / prefill_seconds(engine, tokens[: depth + size.prompt], depth))
        decode.append(1 / decode_seconds(engine, tokens[: depth + size.answer], depth))
    return AtDepth(depth, spread(prefill), spread(decode))
