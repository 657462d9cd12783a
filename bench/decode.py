"""Decode speed beside llama-bench's, on the same file, with the same threads and depth.

    python -m bench.decode [--model FILE] [--runs 7]

llama-bench decodes made-up tokens and samples none, with flash attention and without; llamacli's
figure is that of whole answers: choosing each token, turning it into text and evaluating it.
"""

import statistics
import time
from pathlib import Path

from bench.compare import Outcome, Setup, Target, apart, figure, in_turn, ratio, run_alone
from bench.llama_cpp_tools import llama_bench
from llamacli.machine import physical_cores

DEPTH, TOKENS = 512, 64
REPEATS = 4  # in a process: single ones differ by a tenth, more than what is looked for


def llamacli_decode(model: Path, depth: int, tokens: int) -> float:
    """Tokens a second of whole answers after a prompt of depth tokens, the median."""
    from llamacli.answer.generation import generate
    from llamacli.engine.engine import Engine
    from llamacli.engine.sampling import SamplingSettings
    from llamacli.engine.settings import EngineSettings

    settings = EngineSettings(context=depth + tokens + 8)
    with Engine(model, settings) as engine:
        prompt = [1000 + i % 1000 for i in range(depth)]
        rates = []
        for _ in range(REPEATS):
            engine.prefill(prompt)
            greedy = SamplingSettings(temperature=0)
            answer = generate(engine, prompt, greedy, max_tokens=tokens + 1)
            next(answer)
            started = time.perf_counter()
            results = [chunk.result for chunk in answer]
            rates.append(tokens / (time.perf_counter() - started))
            result = results[-1]
            assert result is not None and result.answer_tokens == tokens + 1, "it ended early"
        return statistics.median(rates)


def measure(setup: Setup) -> Outcome:
    model, tokens = setup.model(), 8 if setup.quick else TOKENS
    options = ("-p", 0, "-n", tokens, "-d", DEPTH, "-fa")
    ways = {
        "llama-bench, -fa 0": lambda: llama_bench(model, *options, 0, repeats=REPEATS)[0],
        "llama-bench, -fa 1": lambda: llama_bench(model, *options, 1, repeats=REPEATS)[0],
        "llamacli": lambda: apart(llamacli_decode, model, DEPTH, tokens),
    }
    results = in_turn(ways, setup.times(7))
    theirs = zip(results["llama-bench, -fa 0"], results["llama-bench, -fa 1"], strict=True)
    best = [max(pair) for pair in theirs]
    return Outcome(
        "Decoding, 1B shape, Q4_K_M",
        tuple(figure(name, "tokens a second", values) for name, values in results.items()),
        (ratio("llamacli to llama-bench's best", results["llamacli"], best, Target(0.99)),),
        f"At a depth of {DEPTH} tokens, {tokens} tokens, {REPEATS} times a process, "
        f"{physical_cores()} threads.",
    )


if __name__ == "__main__":
    run_alone(measure, __doc__)
