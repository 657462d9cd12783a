"""Rotary frequencies, and the llama3 scaling that travels as the tensor rope_freqs.weight."""

import math

import numpy as np
from numpy.typing import NDArray

from convert.config import LlamaConfig


def inverse_frequencies(config: LlamaConfig) -> NDArray[np.float32]:
    """theta ** (-2i / head_dim) for i in 0 … head_dim/2 - 1, float32, radians a position."""
    exponents = np.arange(0, config.head_dim, 2, dtype=np.float32) / np.float32(config.head_dim)
    return (1.0 / np.float32(config.rope_theta) ** exponents).astype(np.float32)


def frequency_factors(config: LlamaConfig) -> NDArray[np.float32] | None:
    """What each frequency is divided by under llama3 scaling, float32 of head_dim/2; else None.

    Meta's reference (llama-models, `apply_scaling`): wavelengths beyond the low-frequency bound
    are stretched by the whole factor, those below the high-frequency bound stay, and between the
    two the frequency is interpolated linearly. llama.cpp divides by rope_freqs.weight.
    """
    scaling = config.rope_scaling
    if scaling is None or scaling.kind != "llama3":
        return None
    context = scaling.original_max_position_embeddings
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    factors = []
    for frequency in inverse_frequencies(config).tolist():
        wavelength = 2 * math.pi / frequency
        if wavelength < context / high:
            factors.append(1.0)
        elif wavelength > context / low:
            factors.append(scaling.factor)
        else:
            smooth = (context / wavelength - low) / (high - low)
            factors.append(1 / ((1 - smooth) / scaling.factor + smooth))
    return np.array(factors, dtype=np.float32)
