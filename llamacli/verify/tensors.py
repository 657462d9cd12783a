"""Every tensor's values compared with the checkpoint's, a few megabytes at a time."""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from convert import ROPE_FACTORS, Checkpoint, LocalFile, Pool, reading
from llamacli.engine import ProgressCallback
from llamacli.gguf import GGUFFile
from llamacli.machine import physical_cores
from llamacli.verify.measure import Sums, measure
from llamacli.verify.pairs import Compared, Pair, diagnose
from llamacli.verify.rows import Row, finite, judged

PIECE = 1 << 20  # values that a thread compares at a time: 14 MB with all that is made of them
IMPORTANCES = "quantize.imatrix."  # the keys by which llama.cpp's quantizer tells of them
OUTPUT, EMBEDDING = "output.weight", "token_embd.weight"


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
    problems += [f"{c.pair.info.name}: {diagnose(c, pairs)}" for c in compared if not c.good]
    return judged("tensors", problems, _summary(compared), {"types": _by_type(compared)})


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
) -> list[Compared]:
    """The sums of every pair, in order, by that many threads (all processors by default)."""
    total, done = sum(pair.spec.parameters for pair in pairs), 0
    sums: dict[str, Sums] = defaultdict(Sums)
    pool = Pool(threads or physical_cores(), "compare")
    with reading({pair.stored.file for pair in pairs}, pool):
        pieces = [piece for pair in pairs for piece in _pieces(pair)]
        results = zip(pieces, pool.map(_compare_piece, pieces), strict=True)
        for (pair, _, _), piece_sums in results:
            sums[pair.info.name] += piece_sums
            done += piece_sums.values
            if progress is not None:
                progress(done, total)
    return [Compared(pair, sums[pair.info.name]) for pair in pairs]


def _pieces(pair: Pair) -> Iterator[tuple[Pair, int, int]]:
    unit = pair.spec.head_dim or 1
    rows = max(unit, PIECE // pair.spec.columns // unit * unit)
    for first in range(0, pair.spec.rows, rows):
        yield pair, first, min(rows, pair.spec.rows - first)


def _compare_piece(piece: tuple[Pair, int, int]) -> Sums:
    pair, first, rows = piece
    bounds = pair.limits
    return measure(
        pair.original(first, rows),
        pair.copy(first, rows),
        pair.info.type.block,
        floor=bounds.floor,
        allowed=bounds.block,
    )


def _by_type(compared: list[Compared]) -> list[dict[str, Any]]:
    """For each type in the file, how many tensors it has and the largest errors of theirs."""
    groups: dict[str, list[Compared]] = defaultdict(list)
    for each in compared:
        groups[each.pair.info.type.name].append(each)
    return [
        {
            "type": kind,
            "tensors": len(group),
            "parameters": sum(each.pair.spec.parameters for each in group),
            "relative_error": finite(max(each.sums.relative() for each in group)),
            "relative_limit": max(each.pair.limits.relative for each in group),
            "worst_block": finite(max(each.sums.worst for each in group)),
            "block_limit": max(each.pair.limits.block for each in group),
            "scale_error": finite(max(abs(each.sums.scale - 1) for each in group)),
            "scale_limit": max(each.pair.limits.scale_of(each.sums.values) for each in group),
        }
        for kind, group in groups.items()
    ]


def _summary(compared: list[Compared]) -> str:
    parts = [
        f"{group['tensors']} {group['type']}"
        + (f" (error {group['relative_error']:.2g})" if group["relative_error"] else " (exact)")
        for group in _by_type(compared)
    ]
    return f"{len(compared)} tensors: {', '.join(parts)}"
