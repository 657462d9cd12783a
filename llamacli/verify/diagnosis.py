"""What became of a tensor that isn't a copy of the checkpoint's: told from a few of its rows."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from convert import TensorSpec, permute_heads
from llamacli.verify.measure import PLAIN_BLOCK, measure
from llamacli.verify.pairs import Compared, Pair, read_rows

ROWS = 16  # that are compared with what else the tensor could be
READ = 1 << 18  # values of the checkpoint that are read at a time
ROUNDED = 0.005  # what rounding to BF16 leaves of a scaled tensor's difference
SCALED = 0.02  # a scale that far from 1 is told where it explains the difference


def diagnose(compared: Compared, pairs: Sequence[Pair]) -> str:
    """In words, what the file's tensor is instead; by numbers where it is nothing known."""
    pair, sums = compared.pair, compared.sums
    rows = np.linspace(0, pair.spec.rows - 1, min(ROWS, pair.spec.rows)).astype(int).tolist()
    copy = np.concatenate([pair.copy(row, 1) for row in rows])
    if not math.isfinite(sums.error) and not np.isfinite(copy).all():
        return "it has values that are NaN or infinite"
    if math.isclose(sums.error, sums.original, rel_tol=1e-6) and not copy.any():
        return "all its values are zero"
    if _scaled(compared):
        return f"it is scaled by {sums.scale:.3g}"
    within = sums.relative(pair.limits.floor) <= pair.limits.relative
    for what, values in () if within else _candidates(pair, rows, pairs):
        if measure(values, copy, 1).relative(pair.limits.floor) <= pair.limits.relative:
            return what
    if sums.bad:
        return _damage(compared)
    return (
        f"its relative error is {sums.relative():.3g} and its scale {sums.scale:.3g}; "
        f"{pair.info.type.name} allows {pair.limits.relative:.3g} and 1 ± {pair.limits.scale:.3g}"
    )


def _candidates(
    pair: Pair, rows: Sequence[int], pairs: Sequence[Pair]
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """What the tensor might be, and the values of those rows if it is that."""
    spec, stored = pair.spec, pair.stored
    if spec.head_dim is not None:
        yield "its rows aren't permuted from Hugging Face's order to ggml's", _take(pair, rows)
        twice = _order(spec)[_order(spec)]
        yield "its rows are permuted twice", _take(pair, twice[rows].tolist())
    if len(spec.shape) == 2 and spec.rows == spec.columns:
        yield "it is transposed", _columns(pair, _order(spec)[rows])
        if spec.head_dim is not None:
            plain = _columns(pair, np.array(rows))
            yield "it is transposed", plain[:, _order(spec)]
            yield "it is transposed, and its rows aren't permuted", plain
    for other in pairs:
        if other.spec.shape == spec.shape and other.stored is not stored:
            order = _order(other.spec)
            yield f"it holds the values of {other.info.name}", _take(other, order[rows].tolist())


def _order(spec: TensorSpec) -> NDArray[np.int64]:
    """For each row in ggml's order, the row of the checkpoint's tensor that it is."""
    order = np.arange(spec.rows)
    if spec.head_dim is None or len(spec.shape) == 1:  # a bias is a single row
        return order
    return np.asarray(permute_heads(order[:, None], spec.head_dim)[:, 0])


def _take(pair: Pair, rows: Sequence[int]) -> NDArray[np.float32]:
    """Rows of the checkpoint's tensor in its own order."""
    return np.concatenate([read_rows(pair.spec, pair.stored, row, 1) for row in rows])


def _columns(pair: Pair, chosen: NDArray[np.int64]) -> NDArray[np.float32]:
    """Columns of the checkpoint's tensor as rows, read a few megabytes at a time."""
    spec, step = pair.spec, max(1, READ // pair.spec.columns)
    parts = [
        read_rows(spec, pair.stored, first, min(step, spec.rows - first))[:, chosen]
        for first in range(0, spec.rows, step)
    ]
    return np.ascontiguousarray(np.concatenate(parts).T)


def _scaled(compared: Compared) -> bool:
    """Whether a factor, and nothing else, lies between the original and the copy."""
    sums, scale = compared.sums, compared.sums.scale
    if abs(scale) < SCALED or abs(scale - 1) < max(SCALED, compared.pair.limits.scale):
        return False
    # |copy - scale * original|² = |copy - original|² - (scale - 1)² |original|²
    rest = max(sums.error - (scale - 1) ** 2 * sums.original, 0.0)
    left = math.sqrt(rest / sums.original) / abs(scale)
    return left <= max(compared.pair.limits.relative, ROUNDED)


def _damage(compared: Compared) -> str:
    spec, block, sums = compared.pair.spec, compared.pair.info.type.block, compared.sums
    if block == 1:
        block = math.gcd(PLAIN_BLOCK, spec.columns)
    row, column = divmod(sums.first_bad * block, spec.columns)
    return (
        f"{sums.bad} of {sums.blocks} blocks are off by more than {compared.pair.info.type.name} "
        f"allows, the worst by {sums.worst:.3g} of its values; the first is in row {row}, "
        f"columns {column} to {column + block - 1}"
    )
