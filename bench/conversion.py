"""Conversion to Q4_K_M in one pass, beside the two steps through llama.cpp's library.

    python -m bench.conversion --shape 8b --layers 2 [--checkpoint FOLDER] [--runs 3]

The two steps: a BF16 file, then llama_model_quantize. Every run is a process of its own, the two
kinds in turn; times are medians. `kernels` is the time in the quantization kernels, a thread.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.checkpoint import SHAPES, shape_config, write_checkpoint

ONE_PASS = """
import json, sys
from bench.memory import peak_resident
from convert import convert
report = convert(sys.argv[1], sys.argv[2], sys.argv[3], force=True)
peak = peak_resident()
print(json.dumps({"seconds": report.seconds, "kernels": report.kernel_seconds, "peak": peak}))
"""

TWO_STEPS = """
import ctypes, json, os, sys, time
import llama_cpp
from bench.memory import peak_resident
from convert import QUANTIZATIONS, convert
started = time.monotonic()
middle = sys.argv[2] + ".bf16"
convert(sys.argv[1], middle, "BF16", force=True)
parameters = llama_cpp.llama_model_quantize_default_params()
parameters.ftype = int(QUANTIZATIONS[sys.argv[3]].file_type)
status = llama_cpp.llama_model_quantize(
    middle.encode(), sys.argv[2].encode(), ctypes.byref(parameters))
assert status == 0
seconds = time.monotonic() - started
os.unlink(middle)
peak = peak_resident()
print(json.dumps({"seconds": seconds, "peak": peak}))
"""


def measure(script: str, checkpoint: Path, target: Path, quantization: str) -> dict[str, float]:
    """Run one conversion in a process of its own and give what it reports."""
    command = [sys.executable, "-c", script, str(checkpoint), str(target), quantization]
    child = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    result: dict[str, float] = json.loads(child.stdout.splitlines()[-1])
    return result


def compare(checkpoint: Path, quantization: str, runs: int) -> str:
    """A Markdown table of both ways, measured in turn."""
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    one: list[dict[str, float]] = []
    two: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory(dir=checkpoint.parent) as folder:
        for _ in range(runs):
            one.append(measure(ONE_PASS, checkpoint, Path(folder) / "one.gguf", quantization))
            two.append(measure(TWO_STEPS, checkpoint, Path(folder) / "two.gguf", quantization))

    def median(results: list[dict[str, float]], key: str) -> float:
        return statistics.median(result[key] for result in results)

    kernels = median(one, "kernels") / (threads or 1)
    seconds = median(one, "seconds")
    ratio = seconds / median(two, "seconds")
    rows = [
        "| | seconds | peak resident memory |",
        "| --- | ---: | ---: |",
        f"| one pass | {seconds:.1f} | {median(one, 'peak') / 2**20:.0f} MiB |",
        f"| of it in kernels, a thread | {kernels:.1f} | |",
        f"| two steps | {median(two, 'seconds'):.1f} | {median(two, 'peak') / 2**20:.0f} MiB |",
        "",
        f"{quantization}, {threads} threads, medians of {runs}. One pass takes "
        f"{seconds / kernels:.2f} of its kernels' time and {ratio:.2f} of the two steps'.",
    ]
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--shape", choices=SHAPES, default="8b")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--checkpoint", type=Path, help="a folder to use instead of making one")
    parser.add_argument("--quantization", default="Q4_K_M")
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.checkpoint is not None:
        print(compare(arguments.checkpoint, arguments.quantization, arguments.runs))
        return
    changes = {"num_hidden_layers": arguments.layers} if arguments.layers else {}
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "checkpoint"
        write_checkpoint(checkpoint, shape_config(arguments.shape, **changes))
        print(compare(checkpoint, arguments.quantization, arguments.runs))


if __name__ == "__main__":
    main()
