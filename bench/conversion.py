"""Conversion to Q4_K_M in one pass, beside the two steps through llama.cpp's library.

    python -m bench.conversion [--shape 8b] [--layers 2] [--checkpoint FOLDER] [--runs 3]
    python -m bench.conversion --bound [--threads 4 16] [--shape 8b] [--layers 18] [--runs 3]

The two steps: a BF16 file, then llama_model_quantize. Every run is a process of its own, the two
kinds in turn. `kernels` is the time in the quantization kernels, a thread. --bound tells what a
conversion takes without them, and reading the source alone, by so many threads each.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.compare import (
    Outcome,
    Setup,
    Target,
    add_options,
    figure,
    in_turn,
    ratio,
    set_up,
    table,
)
from convert import named_quantization, open_checkpoint, system
from convert.header import plan_tensors
from tests.standins.checkpoint import SHAPES, shape_config, write_checkpoint

ONE_PASS = """
import json, sys
from llamacli.tune.measure import peak_resident
from convert import convert
report = convert(sys.argv[1], sys.argv[2], sys.argv[3], force=True)
peak = peak_resident()
print(json.dumps({"seconds": report.seconds, "kernels": report.kernel_seconds, "peak": peak}))
"""

TWO_STEPS = """
import ctypes, json, os, sys, time
import llama_cpp
from llamacli.tune.measure import peak_resident
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


# All of a conversion but the kernels, which leave their bytes as they are.
STUBBED = """
import json, sys, time
import convert.pipeline
started = time.monotonic()
convert.pipeline.kernels_for = lambda kinds, *_, **__: dict.fromkeys(kinds, lambda *_: 0)
begun = []
def check(header, size):
    begun.append(time.monotonic() - started)
convert.pipeline.convert(sys.argv[1], sys.argv[2], sys.argv[3], force=True, check=check)
seconds = time.monotonic() - started
print(json.dumps({"seconds": seconds, "before": begun[0], "processor": time.process_time()}))
"""

# The source read and, where so many bytes are asked for, as many written and on the disk: what no
# conversion can do without.
READING = """
import json, os, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
held, size = threading.local(), 4 << 20
def read(file, at, place):
    if not hasattr(held, "buffer"):
        held.buffer = bytearray(size)
    os.preadv(file, [held.buffer], at)
    if part:
        os.pwrite(target, memoryview(held.buffer)[:part], place)
files = [os.open(path, os.O_RDONLY) for path in Path(sys.argv[1]).glob("*.safetensors")]
places = [(file, at) for file in files for at in range(0, os.fstat(file).st_size, size)]
written = int(sys.argv[4])
part = written // len(places)
target = os.open(sys.argv[2], os.O_RDWR | os.O_CREAT | os.O_TRUNC)
started = time.monotonic()
if part:
    os.posix_fallocate(target, 0, written)
with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
    begun = [pool.submit(read, *place, i * part) for i, place in enumerate(places)]
    for one in begun:
        one.result()
if part:
    os.fsync(target)
seconds = time.monotonic() - started
print(json.dumps({"seconds": seconds, "processor": time.process_time()}))
"""


def bound(checkpoint: Path, quantization: str, runs: int, title: str) -> Outcome:
    """Reading the source alone, and all of a conversion but the kernels, in turn."""
    opened = open_checkpoint(checkpoint)
    planned = plan_tensors(opened.config, named_quantization(quantization))
    size, gigabytes = sum(one.nbytes for one in planned), opened.source_nbytes / 1e9
    with tempfile.TemporaryDirectory(dir=checkpoint.parent) as folder:
        target = Path(folder) / "model.gguf"
        ways = {
            "reading": lambda: run_once(READING, checkpoint, target, quantization, 0),
            "copying": lambda: run_once(READING, checkpoint, target, quantization, size),
            "stubbed": lambda: run_once(STUBBED, checkpoint, target, quantization),
            "whole": lambda: run_once(ONE_PASS, checkpoint, target, quantization),
        }
        found = in_turn(ways, runs)
    reading, copying, stubbed, whole = ([run["seconds"] for run in found[name]] for name in ways)
    processor = {
        name: [run["processor"] / gigabytes for run in found[name]]
        for name in ("reading", "copying", "stubbed")
    }
    before = [run["before"] for run in found["stubbed"]]
    kernels = [run["kernels"] / system.allowed_processors() for run in found["whole"]]
    larger = [max(pair) for pair in zip(kernels, reading, strict=True)]
    return Outcome(
        title,
        (
            figure("reading the source", "seconds", reading),
            figure("and writing as many bytes as the target has", "seconds", copying),
            figure("a conversion without kernels", "seconds", stubbed),
            figure("of it before the first weight", "seconds", before, Target(0.5, most=True)),
            figure("a conversion", "seconds", whole),
            figure("of it in kernels, a thread", "seconds", kernels),
            *(
                figure(f"processor time, {shown}", "seconds a GB read", processor[name])
                for name, shown in (
                    ("reading", "reading"),
                    ("copying", "and writing"),
                    ("stubbed", "a conversion without kernels, Python's start and all"),
                )
            ),
        ),
        (
            ratio("without kernels to reading and writing", stubbed, copying),
            ratio("without kernels to reading", stubbed, reading, Target(1.3, most=True)),
            ratio(
                "the same after the first weight's start",
                [all_of_it - first for all_of_it, first in zip(stubbed, before, strict=True)],
                reading,
                Target(1.3, most=True),
            ),
            ratio("to the larger of kernels and reading", whole, larger, Target(1.1, most=True)),
        ),
        f"{quantization}; the source is in memory, the target is written to the disk.",
    )


def run_once(
    script: str, checkpoint: Path, target: Path, quantization: str, *more: int
) -> dict[str, float]:
    """Run one conversion in a process of its own and give what it reports."""
    command = [sys.executable, "-c", script, str(checkpoint), str(target), quantization]
    command += map(str, more)
    child = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    result: dict[str, float] = json.loads(child.stdout.splitlines()[-1])
    return result


def compare(checkpoint: Path, quantization: str, runs: int, title: str) -> Outcome:
    """Both ways, in turn."""
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with tempfile.TemporaryDirectory(dir=checkpoint.parent) as folder:
        target = Path(folder) / "model.gguf"
        ways = {
            "one pass": lambda: run_once(ONE_PASS, checkpoint, target, quantization),
            "two steps": lambda: run_once(TWO_STEPS, checkpoint, target, quantization),
        }
        rounds = in_turn(ways, runs)
    one, two = rounds["one pass"], rounds["two steps"]
    seconds = {name: [run["seconds"] for run in results] for name, results in rounds.items()}
    peaks = {name: [run["peak"] / 2**20 for run in results] for name, results in rounds.items()}
    kernels = [run["kernels"] / (threads or 1) for run in one]
    return Outcome(
        title,
        (
            figure("one pass", "seconds", seconds["one pass"]),
            figure("of it in kernels, a thread", "seconds", kernels),
            figure("two steps", "seconds", seconds["two steps"]),
            *(figure(f"{name}, peak memory", "MiB", values) for name, values in peaks.items()),
        ),
        (
            ratio(
                "time of one pass to that of two steps",
                seconds["one pass"],
                [run["seconds"] for run in two],
                Target(0.25, most=True),
            ),
            ratio("time of one pass to its kernels'", seconds["one pass"], kernels),
        ),
        f"{quantization}, {threads} threads.",
    )


def measure(setup: Setup, shape: str = "8b", layers: int | None = 2) -> Outcome:
    if setup.quick:
        shape, layers = "1b", 1
    checkpoint = made(setup, shape, layers)
    title = f"Conversion to Q4_K_M, {f'{layers} layers of ' if layers else ''}{shape.upper()}"
    return compare(checkpoint, "Q4_K_M", setup.times(3), title)


def made(setup: Setup, shape: str, layers: int | None) -> Path:
    checkpoint = setup.folder / f"checkpoint-{shape}"
    changes = {"num_hidden_layers": layers} if layers else {}
    write_checkpoint(checkpoint, shape_config(shape, **changes))
    return checkpoint


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--shape", choices=SHAPES, default="8b")
    parser.add_argument("--layers", type=int, help="0 is all of them", default=2)
    parser.add_argument("--checkpoint", type=Path, help="a folder to use instead of making one")
    parser.add_argument("--quantization", default="Q4_K_M")
    parser.add_argument("--threads", type=int, nargs="*", help="of --bound, on Linux")
    parser.add_argument("--bound", action="store_true", help="what is left without kernels")
    arguments = add_options(parser).parse_args()
    with set_up(arguments) as setup:
        if arguments.bound:
            folder = arguments.checkpoint or made(setup, arguments.shape, arguments.layers)
            allowed = set[int]()
            if sys.platform == "linux":
                allowed = os.sched_getaffinity(0)
            for threads in arguments.threads or [0]:
                if sys.platform == "linux" and threads:
                    os.sched_setaffinity(0, sorted(allowed)[:threads])
                title = f"{system.allowed_processors()} threads"
                print(title)
                found = bound(folder, arguments.quantization, setup.times(3), title)
                print(table(found), flush=True)
        elif arguments.checkpoint is None:
            print(table(measure(setup, arguments.shape, arguments.layers)))
        else:
            runs = setup.times(3)
            print(table(compare(arguments.checkpoint, arguments.quantization, runs, "")))


if __name__ == "__main__":
    main()
