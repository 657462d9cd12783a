"""The rate of each compiled quantizer beside ggml's own kernel, on one thread and on all.

    python -m bench.quantizers [--runs 7] [--avx2] [--types Q3_K …] [--threads 1]

Both quantize the same normally distributed values from BF16 bits, as in a checkpoint, which ggml's
kernel needs widened first; without importances and with them. Copying the same bits is the bound
that memory sets. --avx2 compiles ours for a processor that has no more than that, a Haswell; ggml's
are the same there, as llama.cpp compiles them for any processor.
"""

import argparse
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from numpy.typing import NDArray

from bench.compare import (
    Figure,
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
from convert import allowed_processors
from convert.kernels import Kernel, ggml_kernel
from convert.kernels.comparison import importances
from convert.kernels.compiled import KINDS, available, compiled_kernel
from convert.kernels.ggml import Values

VALUES = 1 << 21  # a thread
TARGET = Target(4)
COLUMNS = 4096  # of a row with importances
AVX2 = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": ""}  # those that it has


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


def measure(
    setup: Setup,
    kinds: Sequence[GGMLQuantizationType] = KINDS,
    threads: Sequence[int] | None = None,
) -> Outcome:
    if not available():
        return Outcome("Quantization kernels", (), note="numba is not there: `llamacli[fast]`.")
    normal = np.random.default_rng(0).standard_normal(VALUES).astype(np.float32)
    normal *= np.float32(0.02)
    bits = (normal.view(np.uint32) >> 16).astype(np.uint16)
    numbers = sorted(set(threads or {1, allowed_processors()}))
    copied = [
        figure(f"copying, {threads} thread{'s' if threads > 1 else ''}", "M values a second", rates)
        for threads in numbers
        for rates in [copying(bits, threads, setup.times(7))]
    ]
    compared = [
        compare(kind, bits, weights, threads, setup.times(7))
        for kind in kinds
        for weights in (None, importances(COLUMNS))
        for threads in numbers
    ]
    return Outcome(
        "Quantization kernels",
        (*copied, *(one for figures, _ in compared for one in figures)),
        tuple(one for _, one in compared),
        f"From BF16, {VALUES} values a thread; numba {version('numba')}, for {processor()}.",
    )


def processor() -> str:
    """What numba compiles for."""
    if name := os.environ.get("NUMBA_CPU_NAME"):
        return name
    from llvmlite.binding import get_host_cpu_name  # type: ignore[import-untyped]

    return str(get_host_cpu_name())


def main() -> None:
    parser = add_options(argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0]))
    parser.add_argument("--avx2", action="store_true", help="compile for a processor without more")
    parser.add_argument("--types", nargs="*", choices=[kind.name for kind in KINDS])
    parser.add_argument("--threads", type=int, nargs="*")
    arguments = parser.parse_args()
    if arguments.avx2:
        os.environ.update(AVX2)  # before numba is imported
    kinds = [kind for kind in KINDS if not arguments.types or kind.name in arguments.types]
    with set_up(arguments) as setup:
        print(table(measure(setup, kinds, arguments.threads)))


if __name__ == "__main__":
    main()
