"""What checking several drafted tokens at once costs, for benchmarks: at more sizes than a model's
first draft is measured by, and longer."""

import statistics
import time

from llamacli.engine import Engine
from llamacli.tune.measure import made_up_tokens

CHECKED = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)  # tokens at once


def checking_costs(engine: Engine, depth: int, seconds: float) -> dict[int, float]:
    """What evaluating so many tokens at once costs, in evaluations of one; 1 costs 1.

    Medians of rounds for about so many seconds, one round at least. The engine's settings have
    outputs for as many rows as are checked at most.
    """
    tokens = made_up_tokens(engine, depth + engine.settings.outputs)
    sizes = [size for size in CHECKED if size <= engine.settings.outputs]
    times: dict[int, list[float]] = {size: [] for size in sizes}
    engine.make_room(engine.context_size)  # not while the clock runs
    engine.prefill(tokens[:depth])
    end = time.perf_counter() + seconds
    while True:
        for size in sizes:
            started = time.perf_counter()
            engine.decode_rows(tokens[depth : depth + size])
            engine.logit(0, size - 1)
            times[size].append(time.perf_counter() - started)
            engine.keep(depth)
        if time.perf_counter() >= end:
            break
    once = statistics.median(times[1])
    return {size: round(statistics.median(of_size) / once, 3) for size, of_size in times.items()}
