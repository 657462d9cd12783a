"""A Llama model in NumPy, forward and back, that holds a piece of a matrix at a time.

In float32. Rows are in Hugging Face's order. Yarn's change of the rotary frequencies is left out.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from convert.checkpoint import Checkpoint
from convert.pieces import PIECE, finite_rows
from convert.tensors import frequency_factors, inverse_frequencies

EMBEDDING, OUTPUT = "token_embd.weight", "output.weight"

Floats = NDArray[np.float32]
Read = Callable[[str], None]  # called where a matrix was read
# Called on the way back with a matrix, the gradient at its outputs, its inputs, and that at these.
Met = Callable[[str, Floats, Floats, Floats], None]


class Model:
    """A checkpoint's tensors by GGUF names, in Hugging Face's order, as they are multiplied."""

    def __init__(self, checkpoint: Checkpoint, length: int, done: Read) -> None:
        self.config = checkpoint.config
        self.length = length
        self._checkpoint = checkpoint
        self._specs = {spec.name: spec for spec in checkpoint.weights}
        self._done = done
        self.output = OUTPUT if OUTPUT in self._specs else EMBEDDING

    def times(self, name: str, inputs: Floats) -> Floats:
        """What a matrix, and its bias, makes of inputs of shape (tokens, columns)."""
        outputs = [inputs @ values.T for _, values in self.pieces(name)]
        together = np.concatenate(outputs, axis=1)
        if (bias := name.replace(".weight", ".bias")) in self._specs:
            together += self.vector(bias)
        return together

    def back(self, name: str, change: Floats, inputs: Floats, met: Met) -> Floats:
        """The gradient at a matrix' inputs, from that at its outputs."""
        together = np.zeros_like(inputs)
        for first, values in self.pieces(name):
            together += change[:, first : first + len(values)] @ values
        met(name, change, inputs, together)
        return together

    def vector(self, name: str) -> Floats:
        ((_, values),) = self.pieces(name)
        return values.reshape(-1)

    def rows(self, name: str, ids: NDArray[np.int64]) -> Floats:
        known, places = np.unique(ids, return_inverse=True)
        return np.concatenate([self._read(name, row, 1) for row in known.tolist()])[places]

    def pieces(self, name: str) -> Iterator[tuple[int, Floats]]:
        """First rows, and float32 of shape (rows, columns)."""
        spec = self._specs[name]
        step = max(PIECE // spec.columns, 1)
        for first in range(0, spec.rows, step):
            yield first, self._read(name, first, min(step, spec.rows - first))
        if len(spec.shape) == 2:
            self._done(name)

    def _read(self, name: str, first: int, count: int) -> Floats:
        spec = self._specs[name]
        stored, pairs = self._checkpoint.weights[spec], self._checkpoint.pairs.get(spec.source, ())
        return finite_rows(spec, stored, pairs, first, count)

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
class Norm:
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


class Layer:
    """One layer's forward pass, with what the way back needs of it."""

    def __init__(self, model: Model, number: int, stream: Floats) -> None:
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

    def back(self, change: Floats, met: Met) -> Floats:
        """The gradient at the layer's input, from that at its output."""
        inner = self._back("ffn_down", change, self.inner, met)
        gate: Floats = inner * self.up * self.open * (1 + self.gate * (1 - self.open))
        normal = self.second.output
        into = self._back("ffn_gate", gate, normal, met)
        into += self._back("ffn_up", inner * self.gate * self.open, normal, met)
        change = change + self.second.back(into)
        mixed = self._grouped(self._back("attn_output", change, self.mixed, met))
        values = (self.shares.transpose(0, 2, 1) @ mixed).transpose(1, 0, 2)
        shares = mixed @ self.values.transpose(1, 2, 0)
        scores: Floats = self.shares * (shares - (shares * self.shares).sum(axis=-1, keepdims=True))
        scores *= self._scale
        queries = self._flat(scores @ self.keys.transpose(1, 0, 2))
        queries = queries.reshape(self.queries.shape)
        keys = scores.transpose(0, 2, 1) @ self._grouped(self.queries)
        keys = keys.transpose(1, 0, 2)
        normal, rotated = self.first.output, self.model.rotated
        into = self._back("attn_q", rotated(queries, -1), normal, met)
        into += self._back("attn_k", rotated(keys, -1), normal, met)
        into += self._back("attn_v", values, normal, met)
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

    def _norm(self, part: str, values: Floats) -> Norm:
        weight = self.model.vector(f"{self.prefix}{part}.weight")
        return Norm(values, weight, self.model.config.rms_norm_eps)

    def _times(self, part: str, inputs: Floats) -> Floats:
        return self.model.times(f"{self.prefix}{part}.weight", inputs)

    def _back(self, part: str, change: Floats, inputs: Floats, met: Met) -> Floats:
        name = f"{self.prefix}{part}.weight"
        return self.model.back(name, change.reshape(len(inputs), -1), inputs, met)


def forward(model: Model, ids: NDArray[np.int64]) -> tuple[Floats, list[Floats]]:
    """The last layer's output, of shape (tokens, hidden), and the layers' inputs."""
    stream, inputs = model.rows(EMBEDDING, ids), []
    for number in range(model.config.num_hidden_layers):
        inputs.append(stream)
        stream = Layer(model, number, stream).output
    return stream, inputs
