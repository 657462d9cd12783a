"""What quantization costs: how well files of one model predict a text, next to a precise one."""

import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from llamacli import verify
from llamacli.errors import UsageError
from llamacli.gguf import check_llama, read_gguf


@dataclass(frozen=True)
class Quality:
    """A file, its bytes, its bits a weight, and how it predicts."""

    path: Path
    nbytes: int
    bits: float
    prediction: verify.Prediction


def compare(paths: Sequence[Path], reference: Path, text: str, **asked: Any) -> Iterator[Quality]:
    """Each file next to the reference, on a text in windows of WINDOW tokens.

    asked is as for verify.predictions, which says what is raised.
    """
    files = [read_gguf(path) for path in (reference, *paths)]
    size = min(verify.WINDOW, *(check_llama(file).context for file in files))
    told = verify.predictions(paths, reference, text, size, **asked)
    for path, file, prediction in zip(paths, files[1:], told, strict=True):
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
