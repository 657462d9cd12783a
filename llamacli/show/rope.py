"""Rotary frequencies before and after scaling: from a config, or as a GGUF file has them."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import convert
from llamacli.errors import InvalidModelError
from llamacli.gguf import check_architecture
from llamacli.show import config as configs
from llamacli.terminal import columns

WIDTH = 64  # of the plot, in characters
LINES = 3  # a decade


@dataclass(frozen=True)
class Rope:
    """frequencies are radians a position, one a pair of dimensions; factors divide them."""

    theta: float
    head_dim: int
    scaling: str | None
    frequencies: NDArray[np.float64]
    factors: NDArray[np.float64]

    @property
    def scaled(self) -> NDArray[np.float64]:
        return self.frequencies / self.factors


def find_rope(source: configs.Source) -> Rope:
    """The rotary embedding of a checkpoint's folder or a GGUF file, which is read as it runs."""
    if isinstance(source, Path):
        return rope_of(convert.read_config(source))
    check_architecture(source)
    rope = rope_of(configs.derive_config(source))
    factors = configs.frequency_tensor(source)
    if factors is None or rope.scaling == "llama3":
        return rope
    if len(factors) != len(rope.factors):
        source.fail(f"{convert.ROPE_FACTORS} has {len(factors)} values, not {len(rope.factors)}")
    if rope.scaling is not None:
        name = f"{rope.scaling}, {convert.ROPE_FACTORS}"
    elif configs.explains(configs.find_config(source).config, factors):
        name = "llama3"
    else:
        name = convert.ROPE_FACTORS
    return replace(rope, scaling=name, factors=rope.factors * factors)


def rope_of(config: convert.LlamaConfig) -> Rope:
    """What a config says."""
    if not 1 < config.rope_theta < 1e20:
        raise InvalidModelError(f"rope_theta is {config.rope_theta:g}; above 1 it is of use")
    if config.head_dim > 2 * configs.MAX_FACTORS:
        raise InvalidModelError(
            f"its attention heads have {config.head_dim} values; that is absurd"
        )
    scaling = config.rope_scaling
    frequencies = convert.inverse_frequencies(config).astype(np.float64)
    if scaling is None:
        factors = np.ones_like(frequencies)
    elif scaling.kind == "yarn":
        factors = _yarn_factors(config, scaling)
    elif (computed := convert.frequency_factors(config)) is not None:
        factors = computed.astype(np.float64)
    else:
        factors = np.full_like(frequencies, scaling.factor)
    kind = None if scaling is None else scaling.kind
    return Rope(config.rope_theta, config.head_dim, kind, frequencies, factors)


def _yarn_factors(config: convert.LlamaConfig, scaling: convert.RopeScaling) -> NDArray[np.float64]:
    """YaRN (Peng et al. 2023, equations 18 to 23), with the bounds rounded as llama.cpp has it.

    Pairs that turn more than beta_fast times within the original context stay, those below
    beta_slow turns are stretched by the whole factor, and between the two it goes linearly.
    """
    size, context = config.head_dim, scaling.original_max_position_embeddings

    def pair(turns: float) -> float:
        at = size * math.log(context / (turns * 2 * math.pi)) / (2 * math.log(config.rope_theta))
        return min(max(at, 0.0), size - 1.0)

    low = math.floor(pair(scaling.beta_fast or 32.0))
    high = math.ceil(pair(scaling.beta_slow or 1.0))
    kept = 1 - np.clip((np.arange(size // 2) - low) / max(0.001, high - low), 0.0, 1.0)
    return 1 / ((1 - kept) / scaling.factor + kept)


def as_json(rope: Rope) -> dict[str, Any]:
    columns = {
        "frequency": rope.frequencies,
        "wavelength": 2 * math.pi / rope.frequencies,
        "factor": rope.factors,
        "scaled_frequency": rope.scaled,
        "scaled_wavelength": 2 * math.pi / rope.scaled,
    }
    rows = zip(*(values.tolist() for values in columns.values()), strict=True)
    return {
        "rope_theta": rope.theta,
        "head_dim": rope.head_dim,
        "scaling": rope.scaling,
        "frequencies": [
            {"pair": i, **dict(zip(columns, row, strict=True))} for i, row in enumerate(rows)
        ],
    }


def table(rope: Rope) -> str:
    """A line a pair of dimensions: radians a position, positions a turn, and both scaled."""
    rows = as_json(rope)["frequencies"]
    forms = ("", ".6e", ".6g", ".6g", ".6e", ".6g")
    cells = [[format(*pair) for pair in zip(row.values(), forms, strict=True)] for row in rows]
    return columns([list(rows[0]), *cells], "rrrrrr")


def plot(rope: Rope) -> str:
    """The frequencies over the pairs of dimensions, logarithmic, as lines of characters."""
    import plotille

    before, after = np.log10(rope.frequencies), np.log10(rope.scaled)
    lowest = math.floor(min(before.min(), after.min()))
    highest = max(math.ceil(max(before.max(), after.max())), lowest + 1)
    figure = plotille.Figure()
    figure.with_colors = False
    figure.origin = False
    figure.width, figure.height = WIDTH, LINES * (highest - lowest)
    figure.set_x_limits(0, len(rope.frequencies))
    figure.set_y_limits(lowest, highest)
    figure.x_label, figure.y_label = "pair", "radians"
    figure.x_ticks_fkt = lambda least, _: f"{least:g}"
    figure.y_ticks_fkt = lambda least, _: _decade(least)
    pairs = range(len(rope.frequencies))
    if rope.scaling is None:
        figure.plot(pairs, before, label="frequency")
    else:
        figure.plot(pairs, after, label="after", marker="x")
        figure.plot(pairs, before, label="before")
    lines = figure.show(legend=True).replace("\u2800", " ").splitlines()
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _decade(exponent: float) -> str:
    return f"1e{round(exponent):+03d}" if abs(exponent - round(exponent)) < 0.01 else ""
