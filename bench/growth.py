"""How prefill and decode slow down with length, beside llama-bench at the same depths.

    python -m bench.growth [--model FILE] [--runs 3]

Attention makes a token's time grow linearly with the tokens before it; what counts is that
llamacli adds nothing to llama.cpp's own growth.
"""

import statistics
from pathlib import Path

from bench.compare import Outcome, Setup, Target, apart, figure, in_turn, ratio, run_alone
from bench.llama_cpp_tools import llama_bench

DEPTHS = (0, 1024, 2048, 4096)
PROMPT, ANSWER = 256, 32
REPEATS = 3  # in a process, the median counts: single ones differ by a tenth


def llamacli_rates(model: Path, depths: tuple[int, ...]) -> dict[str, float]:
    """Tokens a second by "prefill 1024", "decode 1024" and so on."""
    from llamacli.engine.engine import Engine
    from llamacli.engine.settings import EngineSettings
    from llamacli.tune.measure import decode_seconds, made_up_tokens, prefill_seconds

    rates = {}
    with Engine(model, EngineSettings(context=max(depths) + PROMPT)) as engine:
        tokens = made_up_tokens(engine, engine.context_size)
        prefill_seconds(engine, tokens[:PROMPT])  # llama-bench warms up as well
        for kind, seconds, count in (
            ("prefill", prefill_seconds, PROMPT),
            ("decode", decode_seconds, ANSWER),
        ):
            for depth in depths:
                given = tokens[: depth + count]
                times = [seconds(engine, given, depth) for _ in range(REPEATS)]
                rates[f"{kind} {depth}"] = 1 / statistics.median(times)
    return rates


def llama_bench_rates(model: Path, depths: tuple[int, ...]) -> dict[str, float]:
    """The same by llama-bench, in one process as well: others get other, faster or slower pages."""
    test = "-p", PROMPT, "-n", ANSWER, "-d", ",".join(map(str, depths)), "-fa", 1
    names = [f"{kind} {depth}" for depth in depths for kind in ("prefill", "decode")]
    return dict(zip(names, llama_bench(model, *test, repeats=REPEATS), strict=True))


def measure(setup: Setup) -> Outcome:
    model, depths = setup.model(), (0, 256) if setup.quick else DEPTHS
    ways = {
        "llama-bench": lambda: llama_bench_rates(model, depths),
        "llamacli": lambda: apart(llamacli_rates, model, depths),
    }
    results = in_turn(ways, setup.times(3))

    def rates(way: str, kind: str, depth: int) -> list[float]:
        return [one[f"{kind} {depth}"] for one in results[way]]

    def growth(way: str, kind: str) -> list[float]:
        ends = rates(way, kind, depths[0]), rates(way, kind, depths[-1])
        return [first / last for first, last in zip(*ends, strict=True)]

    kinds = ("prefill", "decode")
    return Outcome(
        "Growth with length, 1B shape, Q4_K_M",
        tuple(
            figure(f"{way}, {kind} at {depth}", "tokens a second", rates(way, kind, depth))
            for kind in kinds
            for way in ways
            for depth in depths
        ),
        tuple(
            ratio(
                f"growth of a token's {kind} time, llamacli to llama-bench",
                growth("llamacli", kind),
                growth("llama-bench", kind),
                Target(1.05, most=True),
            )
            for kind in kinds
        ),
        f"From a depth of {depths[0]} to {depths[-1]} tokens, weights repacked on both sides, "
        f"{REPEATS} times a process.",
    )


if __name__ == "__main__":
    run_alone(measure, __doc__)
