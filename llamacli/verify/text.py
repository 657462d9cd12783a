"""How well the file predicts a text, next to a file of higher precision."""

import contextlib
import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from convert import TargetError, convert
from convert.checkpoint import Checkpoint
from llamacli.engine import Engine, ProgressCallback, Vocabulary
from llamacli.errors import OutputError, UsageError
from llamacli.gguf import GGUFFile
from llamacli.verify.logits import all_logits, open_evaluator
from llamacli.verify.rows import Row, finite, judged

WINDOW = 512  # tokens that are seen together; those after its first half count, as in llama.cpp
MAX_LOSS = 700.0  # nats whose exponential is still a number
LEAST = 16  # tokens that a text must have

# From so many bits a weight on, the largest mean Kullback-Leibler divergence, in nats: about ten
# times what llama.cpp publishes for Llama 3 8B (Q8_0 0.001, Q6_K 0.005, Q5_K 0.011, Q4_K 0.031,
# Q3_K 0.1, Q2_K 0.45; tools/perplexity/README.md), since smaller models lose more.
DIVERGENCES = ((15.5, 0.01), (8, 0.03), (6.2, 0.1), (5.5, 0.2), (4.2, 0.5), (3.2, 1.5), (2.3, 4.0))


@dataclass(frozen=True)
class Prediction:
    """Means over tokens: negative log-likelihoods in nats, the file's and the reference's;
    the divergence of the file's distribution from the reference's in nats; the share of tokens
    where both find the same one likeliest."""

    tokens: int
    loss: float
    reference_loss: float
    divergence: float
    agreement: float


def text_row(
    file: GGUFFile,
    checkpoint: Checkpoint,
    vocabulary: Vocabulary,
    text: str,
    *,
    reference: Path | None = None,
    threads: int | None = None,
    progress: ProgressCallback | None = None,
) -> Row:
    """Perplexities, divergence and agreement.

    reference is a GGUF file of higher precision; without it the checkpoint is converted, as
    precise as it is, to a temporary one. Raises UsageError for a text too short to say anything.
    """
    size = min(WINDOW, checkpoint.config.max_position_embeddings)
    parts = windows(vocabulary, text, size)
    with contextlib.ExitStack() as held:
        precise = reference or held.enter_context(_converted(checkpoint))
        ours = held.enter_context(open_evaluator(file.path, size, threads))
        theirs = held.enter_context(open_evaluator(precise, size, threads))
        if ours.vocabulary.size != theirs.vocabulary.size:
            sizes = f"{ours.vocabulary.size} tokens, the reference {theirs.vocabulary.size}"
            return judged("text", [f"the file has {sizes}"], "")
        found = predict(ours, theirs, parts, progress)
    return _judged(found, bits_per_weight(file))


def windows(vocabulary: Vocabulary, text: str, size: int) -> list[list[int]]:
    """A text in whole windows of size tokens, each with the BOS token first; one if it is short."""
    start = [vocabulary.bos] if vocabulary.add_bos and vocabulary.bos is not None else []
    tokens = vocabulary.tokenize(text)
    if len(tokens) < LEAST:
        raise UsageError(f"the text has {len(tokens)} tokens; {LEAST} or more tell something")
    step = min(size - len(start), len(tokens))
    return [start + tokens[i : i + step] for i in range(0, len(tokens) - step + 1, step)]


def predict(
    ours: Engine,
    theirs: Engine,
    parts: Sequence[Sequence[int]],
    progress: ProgressCallback | None = None,
) -> Prediction:
    """Evaluate each window by both models and compare what they say of its second half."""
    sums, done, total = np.zeros(5), 0, sum(map(len, parts))
    for part in parts:
        position = 0
        for mine, precise in zip(all_logits(ours, part), all_logits(theirs, part), strict=True):
            first = max(len(part) // 2 - position, 0)
            last = min(len(mine), len(part) - 1 - position)  # nothing follows the last token
            if first < last:
                targets = np.array(part[position + first + 1 : position + last + 1])
                sums += _compared(mine[first:last], precise[first:last], targets)
            position += len(mine)
            done += len(mine)
            if progress is not None:
                progress(done, total)
    count = int(sums[0])
    return Prediction(count, *(sums[1:] / count).tolist())


def bits_per_weight(file: GGUFFile) -> float:
    """Bits of the tensors' data by the values in them."""
    values = sum(math.prod(tensor.shape) for tensor in file.tensors)
    return 8 * sum(tensor.nbytes for tensor in file.tensors) / values


def _compared(
    mine: NDArray[np.float32], precise: NDArray[np.float32], targets: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Count, both losses, divergence and agreement, summed over the rows of logits."""
    rows = np.arange(len(targets))
    ours, theirs = _log_softmax(mine), _log_softmax(precise)
    divergence = np.einsum("ij,ij->i", np.exp(theirs), theirs - ours)
    return np.array(
        [
            len(targets),
            -ours[rows, targets].sum(dtype=np.float64),
            -theirs[rows, targets].sum(dtype=np.float64),
            divergence.sum(dtype=np.float64),
            (mine.argmax(axis=1) == precise.argmax(axis=1)).sum(),
        ]
    )


def _perplexity(loss: float) -> float:
    return math.inf if loss > MAX_LOSS else math.exp(loss)


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    shifted: NDArray[np.float32] = logits - logits.max(axis=1, keepdims=True)
    sums = np.exp(shifted).sum(axis=1, dtype=np.float64, keepdims=True)
    shifted -= np.log(sums).astype(np.float32)
    return shifted


def _judged(found: Prediction, bits: float) -> Row:
    limit = next((most for least, most in DIVERGENCES if bits >= least), math.inf)
    ours, theirs = _perplexity(found.loss), _perplexity(found.reference_loss)
    told = (
        f"perplexity {ours:.4f}, reference {theirs:.4f}; divergence {found.divergence:.2g}, "
        f"the same first choice in {found.agreement:.1%}"
    )
    problems = []
    if not found.divergence <= limit:
        problems = [f"{told}; with {bits:.2g} bits a weight, {limit:g} is the largest divergence"]
    measures = {
        "tokens": found.tokens,
        "perplexity": finite(ours),
        "reference_perplexity": finite(theirs),
        "kl_divergence": finite(found.divergence),
        "kl_divergence_limit": finite(limit),
        "top1_agreement": found.agreement,
        "bits_per_weight": bits,
    }
    return judged("text", problems, told, measures)


@contextlib.contextmanager
def _converted(checkpoint: Checkpoint) -> Iterator[Path]:
    """The checkpoint as a GGUF file of its weights' own type, for as long as the block runs."""
    dtypes = {stored.dtype for stored in checkpoint.weights.values()}
    with tempfile.TemporaryDirectory(prefix="llamacli-") as place:
        path = Path(place) / "reference.gguf"
        try:
            convert(checkpoint.folder, path, dtypes.pop() if len(dtypes) == 1 else "F32")
        except TargetError:
            size = f"{checkpoint.source_nbytes / 1e9:.1f} GB"
            raise OutputError(
                f"the checkpoint as a GGUF file of {size} can't be written to {place}; name "
                "another folder in $TMPDIR, or a file with --reference"
            ) from None
        yield path
