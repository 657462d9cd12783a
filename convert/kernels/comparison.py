"""Values of every kind, to compare a compiled quantizer with ggml's, and the comparison itself."""

import time
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from convert.kernels.ggml import Kernel

BLOCK = 256
SUB = 32
COLUMNS = 4 * BLOCK  # of the rows that importances are given for


def samples(blocks: int, seed: int = 0) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Kinds of values by name, each blocks * 256 values of float32; the same for the same seed."""
    random = np.random.default_rng(seed)
    count = blocks * BLOCK
    normal = random.standard_normal(count).astype(np.float32) * np.float32(0.02)
    rows = normal.reshape(-1, SUB)
    yield "normal", normal
    yield "bfloat16", _bfloat16(normal)
    yield "heavy-tailed", random.standard_t(2, count).astype(np.float32)
    yield "uniform", random.uniform(-1, 1, count).astype(np.float32)
    yield "positive", np.abs(normal) + np.float32(0.01)
    yield "negative", -np.abs(normal) - np.float32(0.01)
    yield "ties", random.integers(-9, 9, count).astype(np.float32) / np.float32(8)
    yield "few levels", random.choice(np.array([-1, 0, 0.5], np.float32), count)
    yield "outliers", np.where(random.random(count) < 1 / 64, normal * np.float32(300), normal)
    yield "uneven", (rows * np.exp2(random.integers(-3, 4, (len(rows), 1)))).astype(np.float32)
    yield "zeros", np.where(random.random((len(rows), 1)) < 1 / 64, np.float32(0), rows)
    yield "sparse", np.where(random.random(count) < 0.9, np.float32(0), normal)
    yield "constants", np.repeat(normal[::SUB], SUB)
    yield "nearly constant", np.repeat(normal[::SUB], SUB) + normal * np.float32(1e-6)
    yield "small", normal * np.float32(1e-6)
    yield "smallest halves", normal * np.exp2(random.integers(-24, -9, count)).astype(np.float32)
    yield "subnormal", normal * np.float32(1e-38)
    yield "wide", np.exp2(random.uniform(-40, 15, count)).astype(np.float32) * np.sign(normal)
    yield "any bits", _finite(random.integers(0, 1 << 32, count, np.uint32))


def _bfloat16(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return (values.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


def _finite(bits: NDArray[np.uint32]) -> NDArray[np.float32]:
    exponent = np.uint32(0x7F800000)
    return np.where(bits & exponent == exponent, bits ^ np.uint32(1 << 30), bits).view(np.float32)


def importances(columns: int, seed: int = 0) -> NDArray[np.float32]:
    """Some for a row, over many orders of magnitude, a few of them zero."""
    random = np.random.default_rng(seed)
    values = np.exp(random.normal(0, 3, columns)).astype(np.float32)
    values[random.random(columns) < 1 / 64] = 0
    return values


def differences(kernel: Kernel, reference: Kernel, nbytes: int, blocks: int) -> list[str]:
    """The kinds of values for which two kernels do not give the same bytes.

    nbytes is the size of BLOCK values in the output, blocks how many of each kind are compared,
    without importances and with those of rows of COLUMNS.
    """
    different = []
    weights = importances(COLUMNS)
    for name, values in samples(blocks):
        values = np.ascontiguousarray(values).reshape(-1)
        ours, theirs = np.zeros((2, blocks * nbytes), np.uint8)
        for kind, given in ((name, None), (f"{name} by importance", weights)):
            kernel(values, ours, given)
            reference(values, theirs, given)
            if not np.array_equal(ours, theirs):
                different.append(kind)
    return different


def speedup(
    kernel: Kernel,
    reference: Kernel,
    nbytes: int,
    blocks: int,
    *,
    by_importance: bool = False,
    rounds: int = 3,
) -> float:
    """How many times faster kernel is, in alternation on normal values: best against best."""
    _, values = next(samples(blocks))
    weights = importances(COLUMNS) if by_importance else None
    out = np.empty(blocks * nbytes, np.uint8)
    best = [float("inf"), float("inf")]
    for _ in range(rounds):
        for which, function in enumerate((kernel, reference)):
            started = time.perf_counter()
            function(values, out, weights)
            best[which] = min(best[which], time.perf_counter() - started)
    return best[1] / best[0]
