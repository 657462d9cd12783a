"""How well models predict a text, next to a more precise one: by the logits after each token; and a
row of the report on that."""

import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convert import Checkpoint, TargetError, convert
from llamacli.engine import Engine, EngineSettings, Vocabulary, defaults
from llamacli.errors import InvalidModelError, OutputError, UsageError
from llamacli.gguf import GGUFFile
from llamacli.machine import this_processor
from llamacli.terminal import count
from llamacli.verify.rows import Row, finite, judged
from llamacli.workers import Workers

STEP = 64  # tokens evaluated at once: their logits take 33 MB with Meta's vocabulary
# From so many bits a weight on, the largest mean Kullback-Leibler divergence, in nats: about ten
# times what llama.cpp publishes for Llama 3 8B (Q8_0 0.001, Q6_K 0.005, Q5_K 0.011, Q4_K 0.031,
# Q3_K 0.1, Q2_K 0.45; tools/perplexity/README.md), since smaller models lose more.
DIVERGENCES = ((15.5, 0.01), (8, 0.03), (6.2, 0.1), (5.5, 0.2), (4.2, 0.5), (3.2, 1.5), (2.3, 4.0))
WINDOW = 512  # tokens that are seen together; those after its first half count, as in llama.cpp
MAX_LOSS = 700.0  # nats whose exponential is still a number
LEAST = 16  # tokens that a text must have

Progress = Callable[[Path, int, int], None]  # the file, tokens evaluated so far, and all


def open_evaluator(
    path: Path,
    context: int,
    threads: int | None = None,
    *,
    step: int = STEP,
    observer: Any = None,
    shared: Workers | None = None,
    **machine: Any,
) -> Engine:
    """The model with room for context tokens and for all logits of step tokens. Close it.

    observer and shared are Engine's; machine are EngineSettings' fields that say where it runs.
    """
    asked: dict[str, Any] = {
        "context": context,
        "batch": step,
        "ubatch": step,
        "outputs": step,
        "flash_attention": "on",  # as in llama.cpp's own programs, and faster for so many at once
        **machine,
    }
    if threads is not None:
        asked["threads"] = threads
    settings = EngineSettings(**{**defaults(this_processor(), "short"), **asked})
    return Engine(path, settings, observer=observer, shared=shared)


def all_logits(engine: Engine, tokens: Sequence[int]) -> Iterator[NDArray[np.float32]]:
    """The logits after each of tokens, a step at a time: float32 of shape (≤ step, vocabulary).

    Each is a view of llama.cpp's memory, good until the next one. Raises what Engine raises.
    """
    engine.keep(0)
    engine.make_room(len(tokens))
    step = engine.settings.outputs
    for start in range(0, len(tokens), step):
        part = tokens[start : start + step]
        engine.decode_rows(part)
        yield engine.all_logits(len(part))
    engine.keep(0)


@dataclass(frozen=True)
class Prediction:
    """Of so many tokens: mean negative log-likelihoods in nats, the file's and the reference's;
    the divergence of the file's distribution from the reference's in nats, its mean, the least
    that 99 % of the tokens are below, and its largest; the share of tokens where both find the
    same one likeliest."""

    tokens: int
    loss: float
    reference_loss: float
    divergence: float
    divergence_99: float
    divergence_most: float
    agreement: float

    @property
    def perplexity(self) -> float:
        return _perplexity(self.loss)

    @property
    def reference_perplexity(self) -> float:
        return _perplexity(self.reference_loss)

    def measures(self) -> dict[str, Any]:
        """The same for JSON; None for what isn't finite."""
        return {
            "tokens": self.tokens,
            "perplexity": finite(self.perplexity),
            "reference_perplexity": finite(self.reference_perplexity),
            "kl_divergence": finite(self.divergence),
            "kl_divergence_99": finite(self.divergence_99),
            "kl_divergence_max": finite(self.divergence_most),
            "top1_agreement": self.agreement,
        }


def _perplexity(loss: float) -> float:
    return math.inf if loss > MAX_LOSS else math.exp(loss)


def windows(vocabulary: Vocabulary, text: str, size: int) -> list[list[int]]:
    """A text in whole windows of size tokens, each with the BOS token first; one if it is short."""
    start = [vocabulary.bos] if vocabulary.add_bos and vocabulary.bos is not None else []
    tokens = vocabulary.tokenize(text)
    if len(tokens) < LEAST:
        raise UsageError(f"the text has {len(tokens)} tokens; {LEAST} or more tell something")
    step = min(size - len(start), len(tokens))
    return [start + tokens[i : i + step] for i in range(0, len(tokens) - step + 1, step)]


def predictions(
    paths: Sequence[Path],
    reference: Path,
    text: str,
    size: int,
    *,
    threads: int | None = None,
    progress: Progress = lambda *_: None,
    **machine: Any,
) -> Iterator[Prediction]:
    """Of each file next to the reference, on a text in windows of size tokens.

    machine is open_evaluator's. Raises UsageError for a text too short to say anything,
    InvalidModelError where a file has another vocabulary, and what Engine raises.
    """
    with open_evaluator(reference, size, threads, **machine) as precise:
        parts = windows(precise.vocabulary, text, size)
        for path in paths:
            shared = precise.workers
            with open_evaluator(path, size, threads, shared=shared, **machine) as engine:
                if windows(engine.vocabulary, text, size) != parts:
                    raise InvalidModelError(f"{path} reads text otherwise than {reference}")
                prediction = _predict(engine, precise, parts, partial(progress, path))
            yield prediction


def _predict(
    ours: Engine,
    theirs: Engine,
    parts: Sequence[Sequence[int]],
    progress: Callable[[int, int], None],
) -> Prediction:
    """Evaluate each window by both models and compare what they say of its second half."""
    compared: list[NDArray[np.float64]] = []
    done, total = 0, sum(map(len, parts))
    for part in parts:
        position = 0
        for mine, precise in zip(all_logits(ours, part), all_logits(theirs, part), strict=True):
            first = max(len(part) // 2 - position, 0)
            last = min(len(mine), len(part) - 1 - position)  # nothing follows the last token
            if first < last:
                targets = np.array(part[position + first + 1 : position + last + 1])
                compared.append(_compared(mine[first:last], precise[first:last], targets))
            position += len(mine)
            done += len(mine)
            progress(done, total)
    loss, reference_loss, divergence, agreement = np.concatenate(compared, axis=1)
    return Prediction(
        divergence.size,
        float(loss.mean()),
        float(reference_loss.mean()),
        float(divergence.mean()),
        float(np.quantile(divergence, 0.99)),
        float(divergence.max()),
        float(agreement.mean()),
    )


def _compared(
    mine: NDArray[np.float32], precise: NDArray[np.float32], targets: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Both losses, divergence and agreement for each row of logits: shape (4, rows)."""
    rows = np.arange(len(targets))
    ours, theirs = _log_softmax(mine), _log_softmax(precise)
    divergence = np.einsum("ij,ij->i", np.exp(theirs), theirs - ours)
    agreement = mine.argmax(axis=1) == precise.argmax(axis=1)
    losses = -ours[rows, targets], -theirs[rows, targets]
    return np.array([*losses, divergence, agreement], np.float64)


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    shifted: NDArray[np.float32] = logits - logits.max(axis=1, keepdims=True)
    sums = np.exp(shifted).sum(axis=1, dtype=np.float64, keepdims=True)
    shifted -= np.log(sums).astype(np.float32)
    return shifted


def text_row(
    file: GGUFFile,
    checkpoint: Checkpoint,
    text: str,
    *,
    reference: Path | None = None,
    progress: Callable[[int, int], None],
    **machine: Any,
) -> Row:
    """Perplexities, divergence and agreement.

    reference is a GGUF file of higher precision; without it the checkpoint is converted, as
    precise as it is, to a temporary one. machine is as for predictions.
    """
    size = min(WINDOW, checkpoint.config.max_position_embeddings)
    with nullcontext(reference) if reference else _converted(checkpoint) as precise:
        told = predictions(
            [file.path], precise, text, size, progress=lambda _, *far: progress(*far), **machine
        )
        (prediction,) = told
    return _judged(prediction, bits_per_weight(file))


def bits_per_weight(file: GGUFFile) -> float:
    """Bits of the tensors' data by the values in them."""
    values = sum(math.prod(tensor.shape) for tensor in file.tensors)
    return 8 * file.weights_nbytes / values


def _judged(prediction: Prediction, bits: float) -> Row:
    limit = next((most for least, most in DIVERGENCES if bits >= least), math.inf)
    told = (
        f"perplexity {prediction.perplexity:.4f}, reference {prediction.reference_perplexity:.4f}; "
        f"divergence {prediction.divergence:.2g}, the same first choice in "
        f"{prediction.agreement:.1%}"
    )
    problems = []
    if not prediction.divergence <= limit:
        problems = [f"{told}; with {bits:.2g} bits a weight, {limit:g} is the largest divergence"]
    limits = {"kl_divergence_limit": finite(limit), "bits_per_weight": bits}
    return judged("text", problems, told, prediction.measures() | limits)


@contextmanager
def _converted(checkpoint: Checkpoint) -> Iterator[Path]:
    """The checkpoint as a GGUF file of its weights' own type, for as long as the block runs."""
    dtypes = {stored.dtype for stored in checkpoint.weights.values()}
    with tempfile.TemporaryDirectory(prefix="llamacli-") as place:
        path = Path(place) / "reference.gguf"
        try:
            convert(checkpoint.folder, path, dtypes.pop() if len(dtypes) == 1 else "F32")
        except TargetError:
            size = count(checkpoint.source_nbytes, "B")
            raise OutputError(
                f"the checkpoint as a GGUF file of {size} can't be written to {place}; name "
                "another folder in $TMPDIR, or a file with --reference"
            ) from None
        yield path
