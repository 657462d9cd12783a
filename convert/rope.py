"""Rotary frequencies, and the llama3 scaling that travels as the tensor rope_freqs.weight."""

import math

import numpy as np
from numpy.typing import NDArray

from convert.config import LlamaConfig


def inverse_frequencies(config: LlamaConfig) -> NDArray[np.float32]:
    """theta ** (-2i / head_dim) for i in 0 … head_dim/2 - 1, float32, radians a position.

    NumPy's float32 powers are up to two units off in the last place; PyTorch's, which transformers
    and llama.cpp's converter take, are those of float64, rounded.
    """
    exponents = np.arange(0, config.head_dim, 2, dtype=np.float32) / np.float32(config.head_dim)
    powers = (np.float64(config.rope_theta) ** exponents.astype(np.float64)).astype(np.float32)
    return np.float32(1) / powers


def frequency_factors(config: LlamaConfig) -> NDArray[np.float32] | None:
    """What each frequency is divided by under llama3 scaling, float32 of head_dim/2; else None.

    Meta's reference (llama-models, `apply_scaling`): wavelengths beyond the low-frequency bound
    are stretched by the whole factor, those below the high-frequency bound stay, and between the
    two the frequency is interpolated linearly. llama.cpp divides by rope_freqs.weight. Every step
    is in float32, as llama.cpp's converter computes it: PyTorch divides a number by a tensor as the
    number times the reciprocal.
    """
    scaling = config.rope_scaling
    if scaling is None or scaling.kind != "llama3":
        return None
    one = np.float32(1)
    context = np.float32(scaling.original_max_position_embeddings)
    low, high = np.float32(scaling.low_freq_factor), np.float32(scaling.high_freq_factor)
    factor = np.float32(scaling.factor)
    wavelengths = one / inverse_frequencies(config) * np.float32(2 * math.pi)
    smooth = (one / wavelengths * context - low) / (high - low)
    between = one / ((one - smooth) / factor + smooth)
    stretched = np.where(wavelengths > context / low, factor, between)
    return np.where(wavelengths < context / high, one, stretched).astype(np.float32)
