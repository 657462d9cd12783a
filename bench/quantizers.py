"""The rate of each compiled quantizer beside ggml's own kernel, on one thread and on all.

    python -m bench.quantizers [--runs 9] [--values 2097152]

Both quantize the same normally distributed values from float32, and from BF16 bits as in a
checkpoint, which ggml's kernel needs widened first. The kernels run in turn; rates are medians
in millions of values a second, and the ratio is the median of the ratios in each round. `cores`
is the processor time a second of the compiled kernel's rounds: where it is below the number of
threads, other programs were using the processor, and the rates say nothing about scaling.
"""

import argparse
import os
import platform
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from numpy.typing import NDArray

from convert.fast import KINDS, Values, available, compiled_kernel, ggml_kernel
from convert.fast_check import Kernel


@dataclass(frozen=True)
class Round:
    """Millions of values a second by one kernel, and how many cores it got."""

    rate: float
    cores: float


def run_once(
    kernel: Kernel, values: Values, outs: list[NDArray[np.uint8]], pool: ThreadPoolExecutor
) -> Round:
    """Let each of len(outs) threads quantize all the values."""
    started, used = time.perf_counter(), time.process_time()
    list(pool.map(lambda out: kernel(values, out), outs))
    seconds, processor = time.perf_counter() - started, time.process_time() - used
    return Round(values.size * len(outs) / seconds / 1e6, processor / seconds)


def compare(kind: GGMLQuantizationType, values: Values, threads: int, runs: int) -> str:
    """The right part of a table row: both rates, the ratio with its range, and the cores."""
    block, nbytes = GGML_QUANT_SIZES[kind]
    outs = [np.zeros(values.size // block * nbytes, np.uint8) for _ in range(threads)]
    theirs, ours = ggml_kernel(kind), compiled_kernel(kind)
    with ThreadPoolExecutor(threads) as pool:
        rounds = [
            (run_once(theirs, values, outs, pool), run_once(ours, values, outs, pool))
            for _ in range(runs + 1)
        ][1:]  # the first one warms up
    ratios = [b.rate / a.rate for a, b in rounds]
    median = statistics.median
    return (
        f"{median(a.rate for a, _ in rounds):.1f} | {median(b.rate for _, b in rounds):.1f} "
        f"| {median(ratios):.1f} | {min(ratios):.1f} to {max(ratios):.1f} "
        f"| {median(b.cores for _, b in rounds):.1f} |"
    )


def table(count: int, runs: int) -> str:
    """A Markdown table of all kinds."""
    normal = np.random.default_rng(0).standard_normal(count).astype(np.float32)
    normal *= np.float32(0.02)
    bits = (normal.view(np.uint32) >> 16).astype(np.uint16)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    lines = [
        "| type | from | threads | ggml, M/s | compiled, M/s | ratio | its range | cores |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for kind in KINDS:
        for name, values in (("F32", normal), ("BF16", bits)):
            for threads in sorted({1, cores or 1}):
                right = compare(kind, values, threads, runs)
                lines.append(f"| {kind.name} | {name} | {threads} | {right}")
    return "\n".join([*lines, "", _machine(count, runs)])


def _machine(count: int, runs: int) -> str:
    from llvmlite.binding import get_host_cpu_name  # type: ignore[import-untyped]

    return (
        f"{platform.machine()} {get_host_cpu_name()}, llama-cpp-python "
        f"{version('llama-cpp-python')}, numba {version('numba')}; {runs} rounds of {count} "
        "values a thread."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--values", type=int, default=1 << 21, help="a multiple of 256")
    arguments = parser.parse_args()
    if not available():
        raise SystemExit("numba is not installed; install the extra llamacli[fast]")
    print(table(arguments.values // 256 * 256, arguments.runs))


if __name__ == "__main__":
    main()
