"""llama.cpp's programs on a GPU: what they come to on one model, by prompts without a meaning."""

import json
import random
import statistics
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from bench.llama_cpp_tools import tool
from bench.served import started

GREEDY = {"temperature": 0, "top_k": 1}


def prompts(count: int, length: int, seed: int) -> list[list[int]]:
    """Token ids that no tokenizer was asked for, different each time."""
    rng = random.Random(seed)
    return [[rng.randrange(1000, 50_000) for _ in range(length)] for _ in range(count)]


def llama_bench(model: Path, prompt: int, tokens: int, depth: int, rounds: int) -> list[float]:
    """Tokens a second of reading so many, and of decoding so many, at a depth."""
    found = _run("llama-bench", model, "-p", prompt, "-n", tokens, "-d", depth, "-ngl", 99,
                 "-fa", 1, "-r", rounds, "-o", "json")  # fmt: skip
    return [statistics.median(test["samples_ts"]) for test in json.loads(found)]


def llama_batched_bench(model: Path, prompt: int, tokens: int, parallel: int) -> dict[str, float]:
    """Tokens a second of all prompts, of all answers after them, and of the answers in all."""
    cells = parallel * (prompt + tokens) + 256
    found = _run("llama-batched-bench", model, "-c", cells, "-npp", prompt, "-ntg", tokens,
                 "-npl", parallel, "-ngl", 99, "-fa", "on", "--output-format", "jsonl")  # fmt: skip
    line = json.loads(next(line for line in found.splitlines() if line.startswith("{")))
    answers = parallel * tokens
    return {
        "prompts": parallel * prompt / float(line["t_pp"]),
        "answers": answers / float(line["t_tg"]),
        "in all": answers / (float(line["t_pp"]) + float(line["t_tg"])),
    }


@contextmanager
def llama_server(model: Path, parallel: int, *options: str | int) -> Iterator[str]:
    """Its address."""
    command = [tool("llama-server"), "-m", model, "-c", parallel * 1024, "-np", parallel]
    command += ["-ngl", 99, "-fa", "on", *options]
    with started("llama-server", lambda port: [*map(str, command), "--port", str(port)]) as server:
        yield f"http://127.0.0.1:{server.port}"


def completion(
    address: str, prompt: list[int], tokens: int, sampling: dict[str, Any] = GREEDY
) -> dict[str, Any]:
    asked = {"prompt": prompt, "n_predict": tokens, "ignore_eos": True, "cache_prompt": False}
    request = Request(f"{address}/completion", json.dumps(asked | sampling).encode())
    with urlopen(request) as answer:
        found: dict[str, Any] = json.loads(answer.read())
    return found


def side_by_side(
    address: str, asked: list[list[int]], tokens: int, sampling: dict[str, Any] = GREEDY
) -> float:
    """Answers' tokens a second, all asked at once."""
    started = time.perf_counter()
    with ThreadPoolExecutor(len(asked)) as pool:
        answers = [pool.submit(completion, address, one, tokens, sampling) for one in asked]
        made = sum(int(answer.result()["tokens_predicted"]) for answer in answers)
    return made / (time.perf_counter() - started)


def _run(name: str, model: Path, *options: str | int) -> str:
    command = [str(tool(name)), "-m", str(model), *map(str, options)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
