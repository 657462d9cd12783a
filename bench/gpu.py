"""Whole answers on a GPU beside llama.cpp's programs, in a few minutes and with nothing to build.

    python -m bench.gpu MODEL --tools DIR [--rounds 3]

DIR holds llama-bench, llama-batched-bench and llama-server, built for the GPU from the same
commit; what isn't there is left out. MODEL is best an 8B's; made-up weights do. Told are decoding
of whole answers at a depth of 512 beside llama-bench (which chooses no token) and llama-server,
8 and 32 answers side by side beside llama-server and llama-batched-bench, what choosing a token
takes, what checking drafts costs, and the share of a step that is Python's.
"""

import argparse
import json
import os
import random
import socket
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from llamacli.answer import Result, generate
from llamacli.batch import BatchEngine, Job, answer_all
from llamacli.engine import Engine, EngineSettings, SamplingSettings, chooser, sampler_chain
from llamacli.speculate import MOST_ROWS
from llamacli.tune.measure import checking_costs, decode_seconds, made_up_tokens

DEPTH, DECODED = 512, 256
PROMPT, ANSWER, SIDE_BY_SIDE = 155, 64, (8, 32)
GREEDY = SamplingSettings(temperature=0)
PATIENCE = 180.0  # seconds for a server's start


def prompts(count: int, length: int, seed: int) -> list[list[int]]:
    """Token ids that no tokenizer was asked for, different each time."""
    rng = random.Random(seed)
    return [[rng.randrange(1000, 50_000) for _ in range(length)] for _ in range(count)]


def decoding(engine: Engine, rounds: int) -> tuple[float, float, float]:
    """Tokens a second of whole answers; milliseconds of a choice by llama.cpp and by us."""
    rates = []
    for number in range(rounds):
        asked = prompts(1, DEPTH, number)[0]
        result = [c.result for c in generate(engine, asked, GREEDY, max_tokens=DECODED)][-1]
        assert result is not None
        rates.append(result.tokens_per_second)
    with sampler_chain(engine, GREEDY, 0) as chain:
        sample = engine.library.llama_sampler_sample
        slow = _milliseconds(lambda: sample(chain, engine.context_pointer, -1))
        fast = chooser(engine, GREEDY, chain)
        quick = _milliseconds(lambda: fast(-1))
    return statistics.median(rates), slow, quick


def side_by_side(engine: BatchEngine, parallel: int, number: int) -> float:
    """Answers' tokens a second."""
    jobs = [Job(prompt, GREEDY, ANSWER) for prompt in prompts(parallel, PROMPT, number)]
    started = time.perf_counter()
    results = [result for _, result in answer_all(engine, iter(jobs))]
    made = sum(result.answer_tokens for result in results if isinstance(result, Result))
    return made / (time.perf_counter() - started)


def llama_bench(tools: Path, model: Path, rounds: int) -> float | None:
    output = _run(tools / "llama-bench", model, "-p", 0, "-n", DECODED, "-d", DEPTH, "-ngl", 99,
                 "-fa", 1, "-r", rounds, "-o", "json")  # fmt: skip
    return None if output is None else statistics.median(json.loads(output)[0]["samples_ts"])


def llama_batched_bench(tools: Path, model: Path, parallel: int) -> float | None:
    """Tokens a second of the second part, which decodes; prompts are read before it."""
    cells = parallel * (PROMPT + ANSWER) + 256
    output = _run(tools / "llama-batched-bench", model, "-c", cells, "-npp", PROMPT, "-ntg", ANSWER,
                 "-npl", parallel, "-ngl", 99, "-fa", "on", "--output-format", "jsonl")  # fmt: skip
    if output is None:
        return None
    line = json.loads(next(line for line in output.splitlines() if line.startswith("{")))
    return parallel * ANSWER / float(line["t"])


@contextmanager
def llama_server(tools: Path, model: Path, parallel: int) -> Iterator[str | None]:
    """Its address, where the program is there."""
    if not (tools / "llama-server").exists():
        yield None
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    cells = parallel * 1024
    command = [tools / "llama-server", "-m", model, "-c", cells, "-np", parallel, "-ngl", 99]
    command += ["-fa", "on", "--host", "127.0.0.1", "--port", port]
    child = subprocess.Popen(
        [*map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    address = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and child.poll() is None:
            try:
                urlopen(f"{address}/health").close()
                break
            except OSError:
                time.sleep(0.2)
        yield address
    finally:
        child.terminate()
        child.wait()


def completion(address: str, prompt: list[int], tokens: int) -> dict[str, Any]:
    asked = {"prompt": prompt, "n_predict": tokens, "temperature": 0, "top_k": 1}
    asked |= {"ignore_eos": True, "cache_prompt": False}
    request = Request(f"{address}/completion", json.dumps(asked).encode())
    with urlopen(request) as answer:
        parsed: dict[str, Any] = json.loads(answer.read())
    return parsed


def served_decoding(address: str, rounds: int) -> float:
    rates = []
    for number in range(rounds):
        answer = completion(address, prompts(1, DEPTH, number)[0], DECODED)
        rates.append(float(answer["timings"]["predicted_per_second"]))
    return statistics.median(rates)


def served_side_by_side(address: str, parallel: int, number: int) -> float:
    started = time.perf_counter()
    with ThreadPoolExecutor(parallel) as pool:
        ask = lambda prompt: completion(address, prompt, ANSWER)  # noqa: E731
        results = list(pool.map(ask, prompts(parallel, PROMPT, number)))
    made = sum(int(one["tokens_predicted"]) for one in results)
    return made / (time.perf_counter() - started)


def tell(name: str, ours: float, others: dict[str, float | None]) -> None:
    print(f"{name}: {ours:.1f} tokens/s")
    for other, rate in others.items():
        if rate is not None:
            print(f"  {other}: {rate:.1f}, ratio {ours / rate:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--tools", type=Path, default=Path(os.devnull).parent)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    model, tools, rounds = given.model, given.tools, given.rounds
    settings = EngineSettings(context=DEPTH + DECODED + 64, outputs=MOST_ROWS)
    with Engine(model, settings) as engine:
        print(f"{engine.name}, {engine.settings.gpu_layers} layers on a GPU")
        ours, slow, quick = decoding(engine, rounds)
        tokens = made_up_tokens(engine, DEPTH + DECODED)
        alone = decode_seconds(engine, tokens, DEPTH)
        costs = checking_costs(engine, DEPTH, 5.0)
    with llama_server(tools, model, 1) as address:
        served = None if address is None else served_decoding(address, rounds)
    others = {"llama-bench": llama_bench(tools, model, rounds), "llama-server": served}
    tell(f"whole answers, depth {DEPTH}", ours, others)
    print(f"  beside evaluation: {max(0.0, 1 - alone * ours):.1%} of a step")
    print(f"choosing a token: llama.cpp's chain {slow:.3f} ms, here {quick:.3f} ms")
    for parallel in SIDE_BY_SIDE:
        with BatchEngine(model, EngineSettings(context=1024), parallel) as engine:
            side_by_side(engine, parallel, -1)  # what is only done once
            ours_rates = [side_by_side(engine, parallel, number) for number in range(rounds)]
        with llama_server(tools, model, parallel) as address:
            rates = [] if address is None else [
                served_side_by_side(address, parallel, number) for number in range(rounds)
            ]  # fmt: skip
        others = {"llama-server": statistics.median(rates) if rates else None}
        others["llama-batched-bench"] = llama_batched_bench(tools, model, parallel)
        tell(f"{parallel} answers side by side", statistics.median(ours_rates), others)
    shown = ", ".join(f"{size}: {cost:.2f}" for size, cost in costs.items())
    print(f"checking drafts, in evaluations of one: {shown}")


def _run(program: Path, model: Path, *options: str | int) -> str | None:
    if not program.exists():
        return None
    command = [str(program), "-m", str(model), *map(str, options)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _milliseconds(work: Callable[[], object], times: int = 200) -> float:
    started = time.perf_counter()
    for _ in range(times):
        work()
    return (time.perf_counter() - started) / times * 1000


if __name__ == "__main__":
    main()
