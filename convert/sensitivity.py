"""How much a matrix' errors cost the model: what share of its last hidden state they disturb.

A block's output is added to the residual stream. An error of it that is a share of the stream's
energy stays one of the same share through what follows, so that a matrix' relative error counts by
what its block adds: cost = kind's factor x block's energy / stream's energy x error / energy. The
cost is proportional to the divergence of the model's predictions. The factors are fitted to the
divergences that quantizing one matrix of two trained models caused (`python -m bench.sensitivity`).

Energies of outputs follow from the weights and the mean squares of inputs, which an importance
matrix has. Without one they are estimated: what comes out of a norm has its weights' squares,
attention hands on a share of its values' energy, and silu(gate) x up that of normal variables.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np

from convert.measure import Measured

# By kind, with an importance matrix and without.
FACTORS = {
    "attn_q": (0.9, 0.8), "attn_k": (0.9, 0.8), "attn_v": (0.4, 3.0), "attn_output": (1.0, 1.0),
    "ffn_gate": (0.75, 0.75), "ffn_up": (0.55, 0.6), "ffn_down": (0.8, 0.8),
}  # fmt: skip
EMBEDDING, OUTPUT = 1.3, 3.2  # one matrix for both costs the sum
ATTENTION = 0.3  # the share of the values' energy that attention hands on, on average
FIRST, LAST = (1.0, 2.0), (1.5, 4.0)  # layers' feed-forwards count so many times
USUAL = 0.1  # a block's share of the stream, for what the weights alone don't tell
EMBEDDING_NAME, OUTPUT_NAME = "token_embd.weight", "output.weight"


@dataclass(frozen=True)
class Block:
    """What a layer's two parts add, in relation to the stream: attention and feed-forward.

    massive is that of the feed-forward with the few columns of huge inputs which make its output
    at a text's first token: the errors of ffn_down count by it, those of the other two by the
    geometric mean of both. spread is the values' energy in relation
    to what attention hands on of it, as their errors are alike for all tokens and stay.
    """

    attention: float
    feed_forward: float
    massive: float
    spread: float


def costs(measured: Mapping[str, Measured], layers: int, *, known: bool) -> dict[str, float]:
    """What a unit of each matrix' error costs, by GGUF names.

    known tells that inputs are those of an importance matrix.
    """
    embedding = measured[EMBEDDING_NAME]
    tied = OUTPUT_NAME not in measured
    by_unit = {EMBEDDING_NAME: _per_unit(EMBEDDING + OUTPUT * tied, embedding)}
    if not tied:
        by_unit[OUTPUT_NAME] = _per_unit(OUTPUT, measured[OUTPUT_NAME])
    stream = embedding.energy / embedding.spec.rows
    for layer in range(layers):
        parts = {part: measured[f"blk.{layer}.{part}.weight"] for part in FACTORS}
        block, stream = _block(parts, stream, known)
        for part, one in parts.items():
            factor = FACTORS[part][0 if known else 1] * _share(block, part, known)
            if part.startswith("ffn"):
                factor *= FIRST[not known] if layer == 0 else 1.0
                factor *= LAST[not known] if layer == layers - 1 else 1.0
            by_unit[one.spec.name] = _per_unit(factor, one)
    return by_unit


def _block(parts: Mapping[str, Measured], stream: float, known: bool) -> tuple[Block, float]:
    """A layer's block, and the stream's energy after it."""
    values = _per_output(parts["attn_v"])
    heads, down = parts["attn_output"], parts["ffn_down"]
    mixed = 1.0 if known else ATTENTION * values
    inner = 1.0
    if not known:
        inner = _silu_energy(_per_output(parts["ffn_gate"])) * _per_output(parts["ffn_up"])
    attention = stream + heads.calm * mixed
    after = attention + down.calm * inner
    handed_on = heads.inputs if known else mixed
    block = Block(
        attention=_ratio(heads.energy * mixed, stream + heads.energy * mixed),
        feed_forward=_ratio(down.calm * inner, after),
        massive=_ratio(down.energy * inner, attention + down.energy * inner),
        spread=max(_ratio(values, handed_on), 1.0) if known else 1.0,
    )
    return block, after


def _share(block: Block, part: str, known: bool) -> float:
    share = block.attention * (block.spread if part == "attn_v" else 1.0)
    if part == "ffn_down":
        share = block.massive
    elif part.startswith("ffn"):
        share = math.sqrt(block.feed_forward * block.massive)
    return share if known else math.sqrt(share * USUAL)


def _per_unit(factor: float, one: Measured) -> float:
    return _ratio(factor, one.energy)


def _per_output(one: Measured) -> float:
    return one.energy / one.spec.rows


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


@cache
def _nodes() -> tuple[np.ndarray, np.ndarray]:
    """Of Gauss' quadrature for the normal distribution."""
    places, weights = np.polynomial.hermite_e.hermegauss(40)
    return places, weights / weights.sum()


def _silu_energy(energy: float) -> float:
    """The mean square of silu(x) for normal x of that mean square."""
    places, weights = _nodes()
    values = math.sqrt(energy) * places
    return float(weights @ (values / (1.0 + np.exp(np.minimum(-values, 700)))) ** 2)
