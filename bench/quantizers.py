"""The rate of each compiled quantizer beside ggml's own kernel, on one thread and on all.

    python -m bench.quantizers [--runs 7]

Both quantize the same normally distributed values from BF16 bits, as in a checkpoint, which ggml's
kernel needs widened first; without importances and with them. Copying the same bits is the bound
that memory sets. NUMBA_CPU_NAME=haswell and NUMBA_CPU_FEATURES=+avx2 measure AVX2 on a processor
that has more.
"""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from numpy.typing import NDArray

from bench.compare import Figure, Outcome, Setup, Target, figure, in_turn, ratio, run_alone
from convert.kernels import Kernel, ggml_kernel
from convert.kernels.comparison import importances
from convert.kernels.compiled import KINDS, available, compiled_kernel
from convert.kernels.ggml import Values

VALUES = 1 << 21  # a thread
TARGET = Target(4)
COLUMNS = 4096  # of a row with importances


def rate(
    kernel: Kernel,
    values: Values,
    outs: list[NDArray[np.uint8]],
    weights: NDArray[np.float32] | None,
    pool: ThreadPoolExecutor,
) -> float:
    """Millions of values a second where each of len(outs) threads quantizes all the values."""
    started = time.perf_counter()
    list(pool.map(lambda out: kernel(values, out, weights), outs))
    return values.size * len(outs) / (time.perf_counter() - started) / 1e6


def compare(
    kind: GGMLQuantizationType,
    values: Values,
    weights: NDArray[np.float32] | None,
    threads: int,
    runs: int,
) -> tuple[list[Figure], Figure]:
    """Both rates, and the ratio."""
    block, nbytes = GGML_QUANT_SIZES[kind]
    outs = [np.zeros(values.size // block * nbytes, np.uint8) for _ in range(threads)]
    kernels = {"ggml": ggml_kernel(kind), "compiled": compiled_kernel(kind)}
    with ThreadPoolExecutor(threads) as pool:
        ways = {
            name: lambda kernel=kernel: rate(kernel, values, outs, weights, pool)
            for name, kernel in kernels.items()
        }
        in_turn(ways, 1)  # warms up
        results = in_turn(ways, runs)
    by = "" if weights is None else " by importance"
    what = f"{kind.name}{by}, {threads} thread{'s' if threads > 1 else ''}"
    return (
        [figure(f"{what}, {name}", "M values a second", results[name]) for name in kernels],
        ratio(f"{what}, compiled to ggml", results["compiled"], results["ggml"], TARGET),
    )


def copying(bits: NDArray[np.uint16], threads: int, runs: int) -> list[float]:
    """The rate at which the bits themselves are copied."""

    def copy(
        values: Values, out: NDArray[np.uint8], _importances: NDArray[np.float32] | None = None
    ) -> int:
        np.copyto(out, values.view(np.uint8))
        return 0

    outs = [np.zeros(bits.nbytes, np.uint8) for _ in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        return [rate(copy, bits, outs, None, pool) for _ in range(runs)]


def measure(setup: Setup) -> Outcome:
    if not available():
        return Outcome("Quantization kernels", (), note="numba is not there: `llamacli[fast]`.")
    normal = np.random.default_rng(0).standard_normal(VALUES).astype(np.float32)
    normal *= np.float32(0.02)
    bits = (normal.view(np.uint32) >> 16).astype(np.uint16)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    copied = [
        figure(f"copying, {threads} thread{'s' if threads > 1 else ''}", "M values a second", rates)
        for threads in sorted({1, cores or 1})
        for rates in [copying(bits, threads, setup.times(7))]
    ]
    compared = [
        compare(kind, bits, weights, threads, setup.times(7))
        for kind in KINDS
        for weights in (None, importances(COLUMNS))
        for threads in sorted({1, cores or 1})
    ]
    return Outcome(
        "Quantization kernels",
        (*copied, *(one for figures, _ in compared for one in figures)),
        tuple(one for _, one in compared),
        f"From BF16, {VALUES} values a thread; numba {version('numba')}.",
    )


if __name__ == "__main__":
    run_alone(measure, __doc__)
