"""Decode speed beside llama-bench's, on the same file, with the same threads and depth.

    python -m bench.decode [--model FILE] [--depth 512] [--tokens 64] [--runs 5]

llama-bench decodes made-up tokens and samples none; llamacli's figure is that of whole answers:
choosing each token, turning it into text and evaluating it. The two run in turn.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.checkpoint import shape_config, write_checkpoint
from bench.llama_cpp_tools import tool
from convert import convert
from llamacli.cores import physical_cores


def llama_bench(model: Path, depth: int, tokens: int) -> float:
    """Tokens a second by llama-bench."""
    command = [str(tool("llama-bench")), "-m", str(model), "-p", "0", "-n", str(tokens)]
    command += ["-d", str(depth), "-t", str(physical_cores()), "-r", "1", "-fa", "1", "-o", "json"]
    output = subprocess.run(command, check=True, capture_output=True).stdout
    return float(json.loads(output)[0]["avg_ts"])


def llamacli_decode(model: Path, depth: int, tokens: int) -> float:
    """Tokens a second of a whole answer of that length after a prompt of depth tokens."""
    from llamacli.engine import Engine, EngineSettings
    from llamacli.generate import generate
    from llamacli.sampling import SamplingSettings

    settings = EngineSettings(context=depth + tokens + 8)
    with Engine(model, settings) as engine:
        prompt = [1000 + i % 1000 for i in range(depth)]
        engine.prefill(prompt)
        answer = generate(engine, prompt, SamplingSettings(temperature=0), max_tokens=tokens + 1)
        next(answer)
        started = time.perf_counter()
        results = [chunk.result for chunk in answer]
        seconds = time.perf_counter() - started
        result = results[-1]
        assert result is not None and result.answer_tokens == tokens + 1, "it ended early"
        return tokens / seconds


def compare(model: Path, depth: int, tokens: int, runs: int) -> str:
    """A Markdown table of both rates, measured in turn in processes of their own."""
    ours, theirs = [], []
    child = [sys.executable, "-m", "bench.decode", "--one", "--model", str(model)]
    child += ["--depth", str(depth), "--tokens", str(tokens)]
    for _ in range(runs):
        theirs.append(llama_bench(model, depth, tokens))
        ours.append(float(subprocess.run(child, check=True, capture_output=True).stdout))
    ratios = sorted(a / b for a, b in zip(ours, theirs, strict=True))
    rows = [
        "| | tokens a second | lowest | highest |",
        "| --- | ---: | ---: | ---: |",
        f"| llamacli | {statistics.median(ours):.2f} | {min(ours):.2f} | {max(ours):.2f} |",
        f"| llama-bench | {statistics.median(theirs):.2f} | {min(theirs):.2f} "
        f"| {max(theirs):.2f} |",
        "",
        f"Depth {depth}, {tokens} tokens, {physical_cores()} threads, medians of {runs}. "
        f"Ratio: {statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f}).",
    ]
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", type=Path, help="a GGUF file; without it, one of 1B shape")
    parser.add_argument("--depth", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--one", action="store_true", help="print llamacli's rate alone")
    arguments = parser.parse_args()
    depth, tokens = arguments.depth, arguments.tokens
    if arguments.one:
        print(llamacli_decode(arguments.model, depth, tokens))
        return
    if arguments.model is not None:
        print(compare(arguments.model, depth, tokens, arguments.runs))
        return
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(Path(folder) / "checkpoint", shape_config("1b"))
        convert(Path(folder) / "checkpoint", Path(folder) / "1b.gguf", "Q4_K_M")
        print(compare(Path(folder) / "1b.gguf", depth, tokens, arguments.runs))


if __name__ == "__main__":
    main()
