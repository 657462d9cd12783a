"""Every tensor of the checkpoint beside the one of the file that should be its copy.

Where it isn't, what became of it is told from a few of its rows.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType
from numpy.typing import NDArray

import convert
from convert import ROPE_FACTORS, Checkpoint, LocalFile, Pool, TensorSpec, permute_heads, reading
from llamacli.engine import ProgressCallback
from llamacli.gguf import GGUFFile, TensorInfo
from llamacli.machine import physical_cores
from llamacli.verify.measure import PLAIN_BLOCK, Limits, Sums, limits, measure
from llamacli.verify.rows import Row, finite, judged

PIECE = 1 << 20  # values that a thread compares at a time: 14 MB with all that is made of them
IMPORTANCES = "quantize.imatrix."  # the keys by which llama.cpp's quantizer tells of them
OUTPUT, EMBEDDING = "output.weight", "token_embd.weight"
ROWS = 16  # that are compared with what else the tensor could be
READ = 1 << 18  # values of the checkpoint that are read at a time
ROUNDED = 0.005  # what rounding to BF16 leaves of a scaled tensor's difference
SCALED = 0.02  # a scale that far from 1 is told where it explains the difference


@dataclass(frozen=True)
class Pair:
    """A tensor of the checkpoint and the one of the file that should be its copy."""

    spec: TensorSpec
    stored: convert.StoredTensor
    info: TensorInfo
    file: convert.WeightFile
    importances: bool

    @property
    def limits(self) -> Limits:
        return limits(self.info.type, self.stored.dtype, self.importances)

    def allows(self, sums: Sums) -> bool:
        """Whether a faithful copy may be so far from the original."""
        bounds = self.limits
        return (
            sums.relative(bounds.floor) <= bounds.relative
            and sums.bad == 0
            and abs(sums.scale - 1) <= bounds.scale_of(sums.values)
        )

    def original(self, first: int, rows: int) -> NDArray[np.float32]:
        """Rows of the checkpoint's tensor in ggml's order, float32; heads must be whole."""
        values = convert.read_rows(self.stored, first, rows)
        if self.spec.head_dim is None:
            return values
        shaped = values[0] if len(self.spec.shape) == 1 else values
        return np.asarray(permute_heads(shaped, self.spec.head_dim), np.float32).reshape(
            values.shape
        )

    def copy(self, first: int, rows: int) -> NDArray[np.float32]:
        """Rows of the file's tensor, float32."""
        kind = self.info.type
        nbytes = self.spec.columns // kind.block * kind.nbytes
        data = self.file.read(self.info.offset + first * nbytes, rows * nbytes)
        return convert.dequantize(GGMLQuantizationType[kind.name], data).reshape(
            rows, self.spec.columns
        )


def diagnose(pair: Pair, sums: Sums, pairs: Sequence[Pair]) -> str:
    """In words, what the file's tensor is instead; by numbers where it is nothing known."""
    rows = np.linspace(0, pair.spec.rows - 1, min(ROWS, pair.spec.rows)).astype(int).tolist()
    copy = np.concatenate([pair.copy(row, 1) for row in rows])
    if not math.isfinite(sums.error) and not np.isfinite(copy).all():
        return "it has values that are NaN or infinite"
    if math.isclose(sums.error, sums.original, rel_tol=1e-6) and not copy.any():
        return "all its values are zero"
    if _scaled(pair, sums):
        return f"it is scaled by {sums.scale:.3g}"
    within = sums.relative(pair.limits.floor) <= pair.limits.relative
    for what, values in () if within else _candidates(pair, rows, pairs):
        if measure(values, copy, 1).relative(pair.limits.floor) <= pair.limits.relative:
            return what
    if sums.bad:
        return _damage(pair, sums)
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
    return np.concatenate([convert.read_rows(pair.stored, row, 1) for row in rows])


def _columns(pair: Pair, chosen: NDArray[np.int64]) -> NDArray[np.float32]:
    """Columns of the checkpoint's tensor as rows, read a few megabytes at a time."""
    spec, step = pair.spec, max(1, READ // pair.spec.columns)
    parts = [
        convert.read_rows(pair.stored, first, min(step, spec.rows - first))[:, chosen]
        for first in range(0, spec.rows, step)
    ]
    return np.ascontiguousarray(np.concatenate(parts).T)


def _scaled(pair: Pair, sums: Sums) -> bool:
    """Whether a factor, and nothing else, lies between the original and the copy."""
    scale = sums.scale
    if abs(scale) < SCALED or abs(scale - 1) < max(SCALED, pair.limits.scale):
        return False
    # |copy - scale * original|² = |copy - original|² - (scale - 1)² |original|²
    rest = max(sums.error - (scale - 1) ** 2 * sums.original, 0.0)
    left = math.sqrt(rest / sums.original) / abs(scale)
    return left <= max(pair.limits.relative, ROUNDED)


def _damage(pair: Pair, sums: Sums) -> str:
    kind, columns = pair.info.type, pair.spec.columns
    block = kind.block if kind.block > 1 else math.gcd(PLAIN_BLOCK, columns)
    row, column = divmod(sums.first_bad * block, columns)
    return (
        f"{sums.bad} of {sums.blocks} blocks are off by more than {kind.name} "
        f"allows, the worst by {sums.worst:.3g} of its values; the first is in row {row}, "
        f"columns {column} to {column + block - 1}"
    )


def tensors_row(
    file: GGUFFile,
    checkpoint: Checkpoint,
    *,
    threads: int | None = None,
    progress: ProgressCallback | None = None,
) -> Row:
    """Compare all tensors; what is wrong with one is named where it can be told."""
    pairs, problems = match(file, checkpoint)
    compared = compare(pairs, threads, progress)
    problems += [
        f"{pair.info.name}: {diagnose(pair, sums, pairs)}"
        for pair, sums in compared
        if not pair.allows(sums)
    ]
    types = _by_type(compared)
    told = ", ".join(
        f"{one['tensors']} {one['type']}"
        + (f" (error {one['relative_error']:.2g})" if one["relative_error"] else " (exact)")
        for one in types
    )
    return judged("tensors", problems, f"{len(compared)} tensors: {told}", {"types": types})


def match(file: GGUFFile, checkpoint: Checkpoint) -> tuple[list[Pair], list[str]]:
    """The tensors that can be compared, and what is missing, too much or of another shape.

    Where the checkpoint has no output matrix, one in the file must be the embedding again.
    """
    infos = {tensor.name: tensor for tensor in file.tensors}
    opened = LocalFile(file.path)
    importances = any(key.startswith(IMPORTANCES) for key in file.metadata)
    pairs, problems = [], []
    expected = {spec.name: (spec, stored) for spec, stored in checkpoint.weights.items()}
    if checkpoint.config.tie_word_embeddings and OUTPUT in infos:
        expected[OUTPUT] = expected[EMBEDDING]
    for name, (spec, stored) in expected.items():
        info = infos.pop(name, None)
        if info is None:
            problems.append(f"{name} is missing")
        elif info.shape[::-1] != spec.shape:
            transposed = "; it was transposed" if info.shape == spec.shape else ""
            shapes = f"{list(info.shape[::-1])}, the checkpoint's {list(spec.shape)}{transposed}"
            problems.append(f"{name} has the shape {shapes}")
        else:
            pairs.append(Pair(spec, stored, info, opened, importances))
    problems += [f"{name} is not in the checkpoint" for name in infos if name != ROPE_FACTORS]
    return pairs, problems


def compare(
    pairs: list[Pair], threads: int | None = None, progress: ProgressCallback | None = None
) -> list[tuple[Pair, Sums]]:
    """The sums of every pair, in order, by that many threads (all processors by default)."""
    total, done = sum(pair.spec.parameters for pair in pairs), 0
    sums: dict[str, Sums] = defaultdict(Sums)
    pool = Pool(threads or physical_cores(), "compare")
    with reading({pair.stored.file for pair in pairs}, pool):
        pieces = [(pair, *piece) for pair in pairs for piece in _pieces(pair.spec)]
        results = pool.map(lambda piece: _measure(*piece), pieces)
        for (pair, *_), piece_sums in zip(pieces, results, strict=True):
            sums[pair.info.name] += piece_sums
            done += piece_sums.values
            if progress is not None:
                progress(done, total)
    return [(pair, sums[pair.info.name]) for pair in pairs]


def _pieces(spec: TensorSpec) -> Iterator[tuple[int, int]]:
    """The first row and how many, of each piece, which has whole heads."""
    unit = spec.head_dim or 1
    rows = max(unit, PIECE // spec.columns // unit * unit)
    for first in range(0, spec.rows, rows):
        yield first, min(rows, spec.rows - first)


def _measure(pair: Pair, first: int, rows: int) -> Sums:
    original, copy, bounds = pair.original(first, rows), pair.copy(first, rows), pair.limits
    return measure(original, copy, pair.info.type.block, floor=bounds.floor, allowed=bounds.block)


def _by_type(compared: Sequence[tuple[Pair, Sums]]) -> list[dict[str, Any]]:
    """For each type in the file, how many tensors it has and the largest errors of theirs."""
    groups: dict[str, list[tuple[Pair, Sums]]] = defaultdict(list)
    for pair, sums in compared:
        groups[pair.info.type.name].append((pair, sums))
    return [
        {
            "type": kind,
            "tensors": len(group),
            "parameters": sum(pair.spec.parameters for pair, _ in group),
            "relative_error": finite(max(sums.relative() for _, sums in group)),
            "relative_limit": max(pair.limits.relative for pair, _ in group),
            "worst_block": finite(max(sums.worst for _, sums in group)),
            "block_limit": max(pair.limits.block for pair, _ in group),
            "scale_error": finite(max(abs(sums.scale - 1) for _, sums in group)),
            "scale_limit": max(pair.limits.scale_of(sums.values) for pair, sums in group),
        }
        for kind, group in groups.items()
    ]
