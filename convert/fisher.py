"""How much a model's predictions hang on its matrices: the Fisher information of their weights.

Where a matrix that takes inputs x has errors E, the predictions move by a divergence of half the
mean square of the sum of g' E x over tokens, to second order; g is the gradient, at the matrix'
output, of predictions drawn with the covariance of the model's own: diag(p) - p p'. For errors that
are independent of each other that is half the sum of squares of the weights' gradients, times those
of the errors (Martens, "New insights and perspectives on the natural gradient method", 2014).
Errors of the inputs count by the gradients at these, in the same way.

The model is run on a few tokens and back, in float32, each matrix read in pieces, three times.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from convert.checkpoint import Checkpoint
from convert.errors import CheckpointError
from convert.network import EMBEDDING, Floats, Layer, Met, Model, Norm, forward

TOKENS = 256  # that are seen together
READS = 3  # of each matrix in a layer: forward, and forward again and back from the end
BLOCKS = (32, 256)  # inputs that llama.cpp rounds together, by the matrix' type (vec_dot_type)
TOP = np.float32(127)  # the largest level that it rounds them to

Progress = Callable[[str, int, int], None]  # what was read, how many times so far, and all


@dataclass(frozen=True)
class Information:
    """What errors cost, by matrices' GGUF names, in nats a token of mean divergence.

    columns is that of a squared error in each column, float32 of shape (columns,). rounding is that
    of all inputs' errors where they are rounded to 8 bits, by how many are rounded together.
    """

    columns: dict[str, Floats] = field(default_factory=dict)
    rounding: dict[str, dict[int, float]] = field(default_factory=dict)


def fisher_information(
    checkpoint: Checkpoint,
    tokens: Sequence[int] = (),
    progress: Progress = lambda *_: None,
) -> Information:
    """The information of all matrices.

    TOKENS of tokens are taken at most; without any, random ones. Raises CheckpointError for values
    that aren't finite.
    """
    config = checkpoint.config
    dice = np.random.default_rng(0)
    ids = np.asarray(tokens[:TOKENS], np.int64)
    if not ids.size:
        ids = dice.integers(0, config.vocab_size, min(TOKENS, config.max_position_embeddings))
    reads, total = 0, READS * 7 * config.num_hidden_layers + 2

    def done(name: str) -> None:
        nonlocal reads
        reads += 1
        progress(name, reads, total)

    found = Information()

    def met(name: str, change: Floats, inputs: Floats, into: Floats) -> None:
        columns = np.einsum("ij,ij->j", inputs, (change @ change.T) @ inputs)
        _add(found, name, columns, change.size)
        found.rounding[name] = {
            block: 0.5 / ids.size * float(((into * _rounding(inputs, block)) ** 2).sum())
            for block in BLOCKS
            if inputs.shape[1] % block == 0
        }

    model = Model(checkpoint, ids.size, done)
    with np.errstate(over="ignore", invalid="ignore"):  # what comes of it is told below
        stream, inputs = forward(model, ids)
        change = _back_through_output(model, stream, dice, met)
        for number in reversed(range(config.num_hidden_layers)):
            change = Layer(model, number, inputs.pop()).back(change, met)
    _add(found, EMBEDDING, (change**2).sum(axis=0), config.vocab_size * ids.size)
    for name, columns in found.columns.items():
        if not np.isfinite(columns).all():
            fault = f"what is computed with {name} isn't finite"
            raise CheckpointError(fault, file=checkpoint.name)
    return found


def _back_through_output(
    model: Model, stream: Floats, dice: np.random.Generator, met: Met
) -> Floats:
    """The gradient at the last layer's output."""
    norm = Norm(stream, model.vector("output_norm.weight"), model.config.rms_norm_eps)
    logits = model.times(model.output, norm.output)
    for row in logits:  # in place, as there is a number for each token of a vocabulary
        row -= row.max()
        p = np.exp(row)
        p /= p.sum()
        drawn = np.sqrt(p) * dice.standard_normal(p.shape, np.float32)
        row[:] = drawn - p * drawn.sum()
    return norm.back(model.back(model.output, logits, norm.output, met))


def _rounding(inputs: Floats, block: int) -> Floats:
    """What rounding to 8 bits makes of inputs: the errors, of their shape."""
    blocks = inputs.reshape(-1, block)
    scale = np.abs(blocks).max(axis=1, keepdims=True) / TOP
    levels = np.rint(blocks / np.where(scale > 0, scale, np.float32(1)))
    errors: Floats = levels * scale - blocks
    return errors.reshape(inputs.shape)


def _add(found: Information, name: str, squares: Floats, shared: int) -> None:
    """Add half the sums of squared gradients, shared among rows and tokens."""
    more = (0.5 / shared * squares).astype(np.float32)
    found.columns[name] = found.columns.get(name, np.float32(0)) + more
