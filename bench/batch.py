"""Many prompts side by side, beside llama.cpp's batched benchmark and beside one after another.

    python -m bench.batch [--model FILE] [--runs 3]

llama-batched-bench evaluates made-up tokens, one unified cache for all sequences, and samples
none; llamacli's figure is that of whole answers to prompts that share nothing.
"""

import json
import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from bench.compare import Outcome, Setup, Target, apart, figure, in_turn, ratio, run_alone
from bench.llama_cpp_tools import tool
from llamacli.machine import physical_cores

PARALLEL, PROMPT, TOKENS = 8, 128, 64


def batched_bench(model: Path, parallel: int, prompt: int, tokens: int) -> float:
    """Tokens a second, prompts and answers together, by llama-batched-bench."""
    cells = parallel * (prompt + tokens) + 256
    command = [str(tool("llama-batched-bench")), "-m", str(model), "-c", str(cells), "-b", "512"]
    command += ["-ub", "512", "-npp", str(prompt), "-ntg", str(tokens), "-npl", str(parallel)]
    command += ["-t", str(physical_cores()), "-fa", "on", "-kvu", "--output-format", "jsonl"]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    line = next(line for line in output.splitlines() if line.startswith("{"))
    return float(json.loads(line)["speed"])


def side_by_side(model: Path, parallel: int, prompt: int, tokens: int) -> float:
    """The same by llamacli's batch."""
    from llamacli.answer import Result
    from llamacli.batch import BatchEngine, Job, answer_all
    from llamacli.engine.sampling import SamplingSettings
    from llamacli.engine.settings import EngineSettings

    settings = EngineSettings(context=max(prompt + tokens + 8, 512))
    with BatchEngine(model, settings, parallel) as engine:
        greedy = SamplingSettings(temperature=0)
        asked = list(_prompts(parallel + 1, prompt))
        list(answer_all(engine, iter([Job(asked.pop(), greedy, 2)])))  # pages the weights in
        started = time.perf_counter()
        results = [r for _, r in answer_all(engine, (Job(p, greedy, tokens) for p in asked))]
        seconds = time.perf_counter() - started
    made = [result.answer_tokens for result in results if isinstance(result, Result)]
    assert made == [tokens] * parallel, "an answer ended early"
    return parallel * (prompt + tokens) / seconds


def in_sequence(model: Path, parallel: int, prompt: int, tokens: int) -> float:
    """The same prompts one after another, the model loaded once."""
    from llamacli.answer.generation import generate
    from llamacli.engine.engine import Engine
    from llamacli.engine.sampling import SamplingSettings
    from llamacli.engine.settings import EngineSettings

    with Engine(model, EngineSettings(context=max(prompt + tokens + 8, 512))) as engine:
        greedy = SamplingSettings(temperature=0)
        asked = list(_prompts(parallel + 1, prompt))
        list(generate(engine, asked.pop(), greedy, max_tokens=2))
        started = time.perf_counter()
        for one in asked:
            list(generate(engine, one, greedy, max_tokens=tokens))
        return parallel * (prompt + tokens) / (time.perf_counter() - started)


def _prompts(count: int, length: int) -> Iterator[list[int]]:
    generator = random.Random(0)
    for _ in range(count):
        yield [generator.randrange(1000, 50_000) for _ in range(length)]


def measure(setup: Setup) -> Outcome:
    model, sizes = setup.model(), (2, 32, 4) if setup.quick else (PARALLEL, PROMPT, TOKENS)
    ways = {
        "llama-batched-bench": lambda: batched_bench(model, *sizes),
        "side by side": lambda: apart(side_by_side, model, *sizes),
        "one after another": lambda: apart(in_sequence, model, *sizes),
    }
    results = in_turn(ways, setup.times(3))
    parallel, prompt, tokens = sizes
    return Outcome(
        "Many prompts, 1B shape, Q4_K_M",
        tuple(figure(name, "tokens a second", values) for name, values in results.items()),
        (
            ratio(
                "side by side to llama-batched-bench",
                results["side by side"],
                results["llama-batched-bench"],
                Target(0.95),
            ),
            ratio(
                "side by side to one after another",
                results["side by side"],
                results["one after another"],
            ),
        ),
        f"{parallel} prompts of {prompt} tokens, answers of {tokens}, {physical_cores()} threads; "
        "prompts and answers count.",
    )


if __name__ == "__main__":
    run_alone(measure, __doc__)
