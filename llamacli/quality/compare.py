"""What quantization costs: how well files of one model predict a text, next to a precise one."""

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

from llamacli import verify
from llamacli.errors import InvalidModelError, UsageError
from llamacli.gguf import check_llama, read_gguf

Progress = Callable[[Path, int, int], None]  # the file, tokens evaluated so far, and all


@dataclass(frozen=True)
class Quality:
    """A file, its bytes, its bits a weight, and how it predicts."""

    path: Path
    nbytes: int
    bits: float
    prediction: verify.Prediction


def compare(
    paths: Sequence[Path],
    reference: Path,
    text: str,
    *,
    threads: int | None = None,
    progress: Progress = lambda *_: None,
    **machine: Any,
) -> Iterator[Quality]:
    """Each file next to the reference, on a text in windows of WINDOW tokens.

    machine is open_evaluator's.
    Raises UsageError for a text too short to say anything, InvalidModelError where a file has
    another vocabulary, and what Engine raises.
    """
    files = [read_gguf(path) for path in (reference, *paths)]
    size = min(verify.WINDOW, *(check_llama(file).context for file in files))
    with verify.open_evaluator(reference, size, threads, **machine) as precise:
        parts = verify.windows(precise.vocabulary, text, size)
        for path, file in zip(paths, files[1:], strict=True):
            with verify.open_evaluator(
                path, size, threads, shared=precise.workers, **machine
            ) as engine:
                if verify.windows(engine.vocabulary, text, size) != parts:
                    raise InvalidModelError(f"{path} reads text otherwise than {reference}")
                prediction = verify.predict(engine, precise, parts, partial(progress, path))
            yield Quality(path, file.size, verify.bits_per_weight(file), prediction)


def check_plot() -> None:
    """Raises UsageError where matplotlib isn't installed."""
    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError("--plot needs matplotlib: pip install 'llamacli[plot]'")


def plot(measured: Sequence[Quality]) -> bytes:
    """A PNG picture of size against mean divergence, which has a logarithmic axis."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    unit, size = ("GB", 1e9) if max(quality.nbytes for quality in measured) >= 1e9 else ("MB", 1e6)
    sizes = [quality.nbytes / size for quality in measured]
    axes.plot(sizes, [max(q.prediction.divergence, 1e-9) for q in measured], "o")
    for quality, at in zip(measured, sizes, strict=True):
        place = (at, max(quality.prediction.divergence, 1e-9))
        axes.annotate(
            quality.path.stem, place, xytext=(5, 4), textcoords="offset points", parse_math=False
        )
    axes.set(xlabel=unit, yscale="log", ylabel="mean Kullback-Leibler divergence, nats")
    axes.margins(x=0.25)
    axes.grid(True, which="both", alpha=0.3)
    picture = BytesIO()
    figure.savefig(picture, format="png", dpi=150)
    return picture.getvalue()
