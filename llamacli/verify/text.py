"""How well the file predicts a text, next to a file of higher precision."""

import contextlib
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from convert import Checkpoint, TargetError, convert
from llamacli.engine import ProgressCallback, Vocabulary
from llamacli.errors import OutputError
from llamacli.gguf import GGUFFile
from llamacli.terminal import count
from llamacli.verify.prediction import WINDOW, Prediction, open_evaluator, predict, windows
from llamacli.verify.rows import Row, finite, judged

# From so many bits a weight on, the largest mean Kullback-Leibler divergence, in nats: about ten
# times what llama.cpp publishes for Llama 3 8B (Q8_0 0.001, Q6_K 0.005, Q5_K 0.011, Q4_K 0.031,
# Q3_K 0.1, Q2_K 0.45; tools/perplexity/README.md), since smaller models lose more.
DIVERGENCES = ((15.5, 0.01), (8, 0.03), (6.2, 0.1), (5.5, 0.2), (4.2, 0.5), (3.2, 1.5), (2.3, 4.0))


def text_row(
    file: GGUFFile,
    checkpoint: Checkpoint,
    vocabulary: Vocabulary,
    text: str,
    *,
    reference: Path | None = None,
    threads: int | None = None,
    progress: ProgressCallback | None = None,
    **machine: Any,
) -> Row:
    """Perplexities, divergence and agreement.

    reference is a GGUF file of higher precision; without it the checkpoint is converted, as
    precise as it is, to a temporary one. machine is open_evaluator's. Raises UsageError for a text
    too short to say anything.
    """
    size = min(WINDOW, checkpoint.config.max_position_embeddings)
    parts = windows(vocabulary, text, size)
    with contextlib.ExitStack() as held:
        precise = reference or held.enter_context(_converted(checkpoint))
        ours = held.enter_context(open_evaluator(file.path, size, threads, **machine))
        theirs = held.enter_context(
            open_evaluator(precise, size, threads, shared=ours.workers, **machine)
        )
        if ours.vocabulary.size != theirs.vocabulary.size:
            sizes = f"{ours.vocabulary.size} tokens, the reference {theirs.vocabulary.size}"
            return judged("text", [f"the file has {sizes}"], "")
        prediction = predict(ours, theirs, parts, progress)
    return _judged(prediction, bits_per_weight(file))


def bits_per_weight(file: GGUFFile) -> float:
    """Bits of the tensors' data by the values in them."""
    values = sum(math.prod(tensor.shape) for tensor in file.tensors)
    return 8 * file.weights_nbytes / values


def _judged(prediction: Prediction, bits: float) -> Row:
    limit = next((most for least, most in DIVERGENCES if bits >= least), math.inf)
    ours, theirs = prediction.perplexity, prediction.reference_perplexity
    told = (
        f"perplexity {ours:.4f}, reference {theirs:.4f}; divergence {prediction.divergence:.2g}, "
        f"the same first choice in {prediction.agreement:.1%}"
    )
    problems = []
    if not prediction.divergence <= limit:
        problems = [f"{told}; with {bits:.2g} bits a weight, {limit:g} is the largest divergence"]
    measures = {
        "tokens": prediction.tokens,
        "perplexity": finite(ours),
        "reference_perplexity": finite(theirs),
        "kl_divergence": finite(prediction.divergence),
        "kl_divergence_limit": finite(limit),
        "top1_agreement": prediction.agreement,
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
            size = count(checkpoint.source_nbytes, "B")
            raise OutputError(
                f"the checkpoint as a GGUF file of {size} can't be written to {place}; name "
                "another folder in $TMPDIR, or a file with --reference"
            ) from None
        yield path
