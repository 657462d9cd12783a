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


def costs(measured: Mapping[str, Measured], layers: int, *, known: bool) -> dict[str, float]:
    """What a unit of each matrix' error costs, by GGUF names.

    known tells that inputs are those of an importance matrix.
    """
    embedding = measured[EMBEDDING_NAME]
    tied = OUTPUT_NAME not in measured
    by_unit = {EMBEDDING_NAME: _ratio(EMBEDDING + OUTPUT * tied, embedding.energy)}
    if not tied:
        by_unit[OUTPUT_NAME] = _ratio(OUTPUT, measured[OUTPUT_NAME].energy)
    stream = embedding.energy / embedding.spec.rows
    for layer in range(layers):
        parts = {part: measured[f"blk.{layer}.{part}.weight"] for part in FACTORS}
        shares, stream = _shares(parts, stream, known)
        for part, one in parts.items():
            factor = FACTORS[part][not known] * shares[part]
            if part.startswith("ffn"):
                factor *= FIRST[not known] if layer == 0 else 1.0
                factor *= LAST[not known] if layer == layers - 1 else 1.0
            by_unit[one.spec.name] = _ratio(factor, one.energy)
    return by_unit


def _shares(
    parts: Mapping[str, Measured], stream: float, known: bool
) -> tuple[dict[str, float], float]:
    """By what a layer's two blocks add to the stream, how each matrix' errors count, and the
    stream's energy after it.
    """
    values = _per_output(parts["attn_v"])
    heads, down = parts["attn_output"], parts["ffn_down"]
    mixed = 1.0 if known else ATTENTION * values
    inner = 1.0
    if not known:
        inner = _silu_energy(_per_output(parts["ffn_gate"])) * _per_output(parts["ffn_up"])
    between = stream + heads.calm * mixed
    after = between + down.calm * inner
    attention = _ratio(heads.energy * mixed, stream + heads.energy * mixed)
    # With the few columns of huge inputs, which make the output at a text's first token.
    massive = _ratio(down.energy * inner, between + down.energy * inner)
    feed_forward = math.sqrt(_ratio(down.calm * inner, after) * massive)
    # The values' errors are alike for all tokens, so that attention hands them on whole.
    spread = max(_ratio(values, heads.inputs), 1.0) if known else 1.0
    shares = {
        **dict.fromkeys(("attn_q", "attn_k", "attn_output"), attention),
        **dict.fromkeys(("ffn_gate", "ffn_up"), feed_forward),
        "attn_v": attention * spread,
        "ffn_down": massive,
    }
    if not known:
        shares = {part: math.sqrt(share * USUAL) for part, share in shares.items()}
    return shares, after


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
