"""How well a model predicts a text, next to one of higher precision."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llamacli.engine import Engine, ProgressCallback, Vocabulary
from llamacli.errors import UsageError
from llamacli.verify.logits import all_logits

WINDOW = 512  # tokens that are seen together; those after its first half count, as in llama.cpp
MAX_LOSS = 700.0  # nats whose exponential is still a number
LEAST = 16  # tokens that a text must have


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
        return math.inf if self.loss > MAX_LOSS else math.exp(self.loss)

    @property
    def reference_perplexity(self) -> float:
        return math.inf if self.reference_loss > MAX_LOSS else math.exp(self.reference_loss)


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
    """Evaluate each window by both models and compare what they say of its second half.

    progress gets how many tokens were evaluated so far, and of how many.
    """
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
            if progress is not None:
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
