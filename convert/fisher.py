"""How much a model's predictions hang on its matrices: the Fisher information of their weights.

Where a matrix that takes inputs x has errors E, the predictions move by a divergence of half the
mean square of the sum of g' E x over tokens, to second order; g is the gradient, at the matrix'
output, of predictions drawn with the covariance of the model's own: diag(p) - p p'. For errors that
are independent of each other that is half the sum of squares of the weights' gradients, times those
of the errors (Martens, "New insights and perspectives on the natural gradient method", 2014).
Errors of the inputs count by the gradients at these, in the same way.

The model is run on a few tokens and back, in float32, each matrix read in pieces, three times.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from gguf import GGMLQuantizationType
from numpy.typing import NDArray

from convert.checkpoint import Checkpoint
from convert.errors import CheckpointError
from convert.header import PlannedTensor
from convert.pieces import PIECE, Piece, not_finite_error, piece_values, read_piece
from convert.tensors import frequency_factors, inverse_frequencies

TOKENS = 256
READS = 3  # of each matrix in a layer: forward, and forward again and back from the end
EMBEDDING, OUTPUT = "token_embd.weight", "output.weight"
BLOCKS = (32, 256)  # inputs that llama.cpp rounds together, by the matrix' type (vec_dot_type)
TOP = np.float32(127)  # the largest level that it rounds them to

Floats = NDArray[np.float32]
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

    TOKENS of tokens are taken at most; without any, random ones. Yarn's change of the rotary
    frequencies is left out. Raises CheckpointError for values that aren't finite.
    """
    config = checkpoint.config
    dice = np.random.default_rng(0)
    ids = np.asarray(tokens[:TOKENS], np.int64)
    if not ids.size:
        ids = dice.integers(0, config.vocab_size, min(TOKENS, config.max_position_embeddings))
    model = _Model(checkpoint, len(ids), progress)
    found = Information()
    with np.errstate(over="ignore", invalid="ignore"):  # what comes of it is told below
        stream, inputs = _forward(model, ids)
        change = _back_through_output(model, stream, dice, found)
        for number in reversed(range(config.num_hidden_layers)):
            change = _Layer(model, number, inputs.pop()).back(change, found)
    _add(found, EMBEDDING, (change**2).sum(axis=0), config.vocab_size * len(ids))
    for name, columns in found.columns.items():
        if not np.isfinite(columns).all():
            fault = f"what is computed with {name} isn't finite"
            raise CheckpointError(fault, file=checkpoint.name)
    return found


class _Model:
    """A checkpoint's tensors by GGUF names, in Hugging Face's order, as they are multiplied."""

    def __init__(self, checkpoint: Checkpoint, length: int, progress: Progress) -> None:
        self.config = checkpoint.config
        self.length = length
        self._checkpoint = checkpoint
        self._specs = {spec.name: spec for spec in checkpoint.weights}
        self._progress, self._reads = progress, 0
        self.output = OUTPUT if OUTPUT in self._specs else EMBEDDING

    def times(self, name: str, inputs: Floats) -> Floats:
        """What a matrix, and its bias, makes of inputs of shape (tokens, columns)."""
        outputs = [inputs @ values.T for _, values in self.pieces(name)]
        together = np.concatenate(outputs, axis=1)
        if (bias := name.replace(".weight", ".bias")) in self._specs:
            together += self.vector(bias)
        return together

    def back(self, name: str, change: Floats, inputs: Floats, found: Information) -> Floats:
        """The gradient at a matrix' inputs, from that at its outputs; adds what it found."""
        rows = self._specs[name].rows
        columns = np.einsum("ij,ij->j", inputs, (change @ change.T) @ inputs)
        _add(found, name, columns, rows * self.length)
        together = np.zeros_like(inputs)
        for first, values in self.pieces(name):
            together += change[:, first : first + len(values)] @ values
        found.rounding[name] = {
            block: 0.5 / self.length * float(((together * _rounding(inputs, block)) ** 2).sum())
            for block in BLOCKS
            if inputs.shape[1] % block == 0
        }
        return together

    def vector(self, name: str) -> Floats:
        ((_, values),) = self.pieces(name)
        return values.reshape(-1)

    def rows(self, name: str, ids: NDArray[np.int64]) -> Floats:
        known = {row: self._read(name, row, 1)[0] for row in sorted(set(ids.tolist()))}
        return np.array([known[row] for row in ids.tolist()])

    def pieces(self, name: str) -> Iterator[tuple[int, Floats]]:
        """First rows, and float32 of shape (rows, columns)."""
        spec = self._specs[name]
        step = max(PIECE // spec.columns, 1)
        for first in range(0, spec.rows, step):
            yield first, self._read(name, first, min(step, spec.rows - first))
        if len(spec.shape) == 2:
            self._reads += 1
            total = READS * 7 * self.config.num_hidden_layers + 2
            self._progress(name, self._reads, total)

    def _read(self, name: str, first: int, count: int) -> Floats:
        spec = self._specs[name]
        stored, pairs = self._checkpoint.weights[spec], self._checkpoint.pairs.get(spec.source, ())
        planned = PlannedTensor(replace(spec, head_dim=None), GGMLQuantizationType.F32, 0, 0)
        piece = Piece(planned, stored, first, count, 0, tuple(pairs))
        values = piece_values(piece, read_piece(piece))
        if wrong := values.size - int(np.isfinite(values).sum()):
            raise not_finite_error(stored, spec, wrong)
        return values

    @cached_property
    def rotation(self) -> tuple[Floats, Floats]:
        """Cosines and sines, of shape (tokens, 1, head_dim / 2)."""
        scaling, frequencies = self.config.rope_scaling, inverse_frequencies(self.config)
        if (factors := frequency_factors(self.config)) is not None:
            frequencies = frequencies / factors
        if scaling is not None and scaling.kind == "linear":
            frequencies = frequencies / np.float32(scaling.factor)
        angles = np.arange(self.length, dtype=np.float32)[:, None, None] * frequencies
        return np.cos(angles), np.sin(angles)

    def rotated(self, heads: Floats, sign: int = 1) -> Floats:
        """Queries or keys, of shape (tokens, heads, head_dim), by their positions, or back."""
        cosines, sines = self.rotation[0], self.rotation[1] * np.float32(sign)
        a, b = np.split(heads, 2, axis=-1)
        return np.concatenate([a * cosines - b * sines, b * cosines + a * sines], axis=-1)


@dataclass(frozen=True)
class _Norm:
    """RMS normalization of values, of shape (tokens, hidden)."""

    values: Floats
    weight: Floats
    epsilon: float

    @cached_property
    def scale(self) -> Floats:
        mean = (self.values**2).mean(axis=-1, keepdims=True)
        scale: Floats = 1 / np.sqrt(mean + np.float32(self.epsilon))
        return scale

    @cached_property
    def output(self) -> Floats:
        return self.values * self.scale * self.weight

    def back(self, change: Floats) -> Floats:
        weighted = change * self.weight
        along = (weighted * self.values).mean(axis=-1, keepdims=True)
        before: Floats = self.scale * (weighted - self.values * self.scale**2 * along)
        return before


class _Layer:
    """One layer's forward pass, with what the way back needs of it."""

    def __init__(self, model: _Model, number: int, stream: Floats) -> None:
        self.model, self.prefix = model, f"blk.{number}."
        config = model.config
        self.first = self._norm("attn_norm", stream)
        normal = self.first.output
        heads, shared = config.num_attention_heads, config.num_key_value_heads
        self.queries = model.rotated(self._heads("attn_q", normal, heads))
        self.keys = model.rotated(self._heads("attn_k", normal, shared))
        self.values = self._heads("attn_v", normal, shared)
        # By shared head: (shared, the queries' heads of it x tokens, …).
        self.shares = self._attention()
        mixed = self.shares @ self.values.transpose(1, 0, 2)
        self.mixed = self._flat(mixed)
        self.second = self._norm("ffn_norm", stream + self._times("attn_output", self.mixed))
        self.gate = self._times("ffn_gate", self.second.output)
        self.up = self._times("ffn_up", self.second.output)
        self.open: Floats = np.reciprocal(1 + np.exp(-self.gate))
        self.inner: Floats = self.gate * self.open * self.up
        self.output = self.second.values + self._times("ffn_down", self.inner)

    def back(self, change: Floats, found: Information) -> Floats:
        """The gradient at the layer's input, from that at its output; adds what it found."""
        inner = self._back("ffn_down", change, self.inner, found)
        gate: Floats = inner * self.up * self.open * (1 + self.gate * (1 - self.open))
        normal = self.second.output
        into = self._back("ffn_gate", gate, normal, found)
        into += self._back("ffn_up", inner * self.gate * self.open, normal, found)
        change = change + self.second.back(into)
        mixed = self._grouped(self._back("attn_output", change, self.mixed, found))
        values = (self.shares.transpose(0, 2, 1) @ mixed).transpose(1, 0, 2)
        shares = mixed @ self.values.transpose(1, 2, 0)
        scores: Floats = self.shares * (shares - (shares * self.shares).sum(axis=-1, keepdims=True))
        scores *= self._scale
        queries = self._flat(scores @ self.keys.transpose(1, 0, 2))
        queries = queries.reshape(self.queries.shape)
        keys = scores.transpose(0, 2, 1) @ self._grouped(self.queries)
        keys = keys.transpose(1, 0, 2)
        normal, rotated = self.first.output, self.model.rotated
        into = self._back("attn_q", rotated(queries, -1), normal, found)
        into += self._back("attn_k", rotated(keys, -1), normal, found)
        into += self._back("attn_v", values, normal, found)
        return change + self.first.back(into)

    @property
    def _scale(self) -> np.float32:
        return np.float32(self.model.config.head_dim**-0.5)

    def _attention(self) -> Floats:
        """What share of each token's values each head takes at each token."""
        scores = self._grouped(self.queries) @ self.keys.transpose(1, 2, 0) * self._scale
        length = self.model.length
        ahead = np.triu(np.full((length, length), -np.inf, np.float32), 1)
        scores += np.tile(ahead, (scores.shape[1] // length, 1))
        scores -= scores.max(axis=-1, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(axis=-1, keepdims=True)
        return scores

    def _grouped(self, heads: Floats) -> Floats:
        """From a row a token to (shared heads, queries' heads of each x tokens, head_dim)."""
        shared, size = self.model.config.num_key_value_heads, self.model.config.head_dim
        by_head = heads.reshape(self.model.length, shared, -1, size).transpose(1, 2, 0, 3)
        return by_head.reshape(shared, -1, size)

    def _flat(self, grouped: Floats) -> Floats:
        """The other way."""
        shared, _, size = grouped.shape
        by_head = grouped.reshape(shared, -1, self.model.length, size)
        return by_head.transpose(2, 0, 1, 3).reshape(self.model.length, -1)

    def _heads(self, part: str, inputs: Floats, count: int) -> Floats:
        return self._times(part, inputs).reshape(self.model.length, count, -1)

    def _norm(self, part: str, values: Floats) -> _Norm:
        weight = self.model.vector(f"{self.prefix}{part}.weight")
        return _Norm(values, weight, self.model.config.rms_norm_eps)

    def _times(self, part: str, inputs: Floats) -> Floats:
        return self.model.times(f"{self.prefix}{part}.weight", inputs)

    def _back(self, part: str, change: Floats, inputs: Floats, found: Information) -> Floats:
        name = f"{self.prefix}{part}.weight"
        return self.model.back(name, change.reshape(len(inputs), -1), inputs, found)


def _forward(model: _Model, ids: NDArray[np.int64]) -> tuple[Floats, list[Floats]]:
    """The last layer's output, of shape (tokens, hidden), and the layers' inputs."""
    stream, inputs = model.rows(EMBEDDING, ids), []
    for number in range(model.config.num_hidden_layers):
        inputs.append(stream)
        stream = _Layer(model, number, stream).output
    return stream, inputs


def _back_through_output(
    model: _Model, stream: Floats, dice: np.random.Generator, found: Information
) -> Floats:
    """The gradient at the last layer's output."""
    norm = _Norm(stream, model.vector("output_norm.weight"), model.config.rms_norm_eps)
    logits = model.times(model.output, norm.output)
    for row in logits:  # in place, as there is a number for each token of a vocabulary
        row -= row.max()
        p = np.exp(row)
        p /= p.sum()
        drawn = np.sqrt(p) * dice.standard_normal(p.shape, np.float32)
        row[:] = drawn - p * drawn.sum()
    return norm.back(model.back(model.output, logits, norm.output, found))


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
