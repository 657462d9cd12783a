"""Many prompts side by side, beside llama.cpp's batched benchmark and beside one after another.

    python -m bench.batch [--model FILE] [--parallel 8] [--prompt 128] [--tokens 64] [--runs 3]

llama-batched-bench evaluates made-up tokens, one unified cache for all sequences, and samples
none; llamacli's figure is that of whole answers to prompts that share nothing. All run in turn.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench.checkpoint import shape_config, write_checkpoint
from bench.llama_cpp_tools import tool
from convert import convert
from llamacli.cores import physical_cores


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
    from llamacli.batch import BatchEngine, Job, answer_all
    from llamacli.generate import Result
    from llamacli.loading import EngineSettings
    from llamacli.sampling import SamplingSettings

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
    from llamacli.engine import Engine
    from llamacli.generate import generate
    from llamacli.loading import EngineSettings
    from llamacli.sampling import SamplingSettings

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


WAYS = {"side-by-side": side_by_side, "in-sequence": in_sequence}


def compare(model: Path, parallel: int, prompt: int, tokens: int, runs: int) -> str:
    """A Markdown table of the three rates, measured in turn in processes of their own."""
    rates: dict[str, list[float]] = {"llama-batched-bench": [], **{way: [] for way in WAYS}}
    sizes = ["--parallel", str(parallel), "--prompt", str(prompt), "--tokens", str(tokens)]
    for _ in range(runs):
        rates["llama-batched-bench"].append(batched_bench(model, parallel, prompt, tokens))
        for way in WAYS:
            child = [sys.executable, "-m", "bench.batch", "--one", way, "--model", str(model)]
            done = subprocess.run([*child, *sizes], check=True, capture_output=True)
            rates[way].append(float(done.stdout))
    rows = ["| | tokens a second | lowest | highest |", "| --- | ---: | ---: | ---: |"]
    rows += [
        f"| {name} | {statistics.median(found):.1f} | {min(found):.1f} | {max(found):.1f} |"
        for name, found in rates.items()
    ]
    rows += [
        "",
        f"{parallel} prompts of {prompt} tokens, answers of {tokens}, {physical_cores()} threads, "
        f"medians of {runs}. Side by side to llama-batched-bench: "
        f"{_ratio(rates['side-by-side'], rates['llama-batched-bench'])}; to one after another: "
        f"{_ratio(rates['side-by-side'], rates['in-sequence'])}.",
    ]
    return "\n".join(rows)


def _ratio(ours: list[float], theirs: list[float]) -> str:
    ratios = sorted(a / b for a, b in zip(ours, theirs, strict=True))
    return f"{statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", type=Path, help="a GGUF file; without it, one of 1B shape")
    parser.add_argument("--parallel", type=int, default=8)
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--one", choices=WAYS, help="print one rate alone")
    arguments = parser.parse_args()
    sizes = arguments.parallel, arguments.prompt, arguments.tokens
    if arguments.one:
        print(WAYS[arguments.one](arguments.model, *sizes))
        return
    if arguments.model is not None:
        print(compare(arguments.model, *sizes, arguments.runs))
        return
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(Path(folder) / "checkpoint", shape_config("1b"))
        convert(Path(folder) / "checkpoint", Path(folder) / "1b.gguf", "Q4_K_M")
        print(compare(Path(folder) / "1b.gguf", *sizes, arguments.runs))


if __name__ == "__main__":
    main()
