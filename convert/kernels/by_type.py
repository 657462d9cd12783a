"""The compiled quantizer of each type, as numba keeps it on disk: a function of a module's own.

Import this only where numba is installed.
"""

import numpy as np
from gguf import GGMLQuantizationType as Type

from convert.kernels import iq4, q2_k, q3_k, q4_0, q4_k, q6_k, q8_0
from convert.kernels.lanes import Bits, Bytes, Floats, compiled


@compiled
def to_q2_k(values: Floats, bits: Bits, weights: Floats, out: Bytes, left: Bytes) -> np.uint32:
    return q2_k.quantize(values, bits, weights, out, left)  # type: ignore[no-any-return]


@compiled
def to_q3_k(values: Floats, bits: Bits, weights: Floats, out: Bytes, left: Bytes) -> np.uint32:
    return q3_k.quantize(values, bits, weights, out, left)  # type: ignore[no-any-return]


@compiled
def to_q4_k(values: Floats, bits: Bits, weights: Floats, out: Bytes, left: Bytes) -> np.uint32:
    return q4_k.quantize_q4(values, bits, weights, out, left)  # type: ignore[no-any-return]


@compiled
def to_q5_k(values: Floats, bits: Bits, weights: Floats, out: Bytes, left: Bytes) -> np.uint32:
    return q4_k.quantize_q5(values, bits, weights, out, left)  # type: ignore[no-any-return]


@compiled
def to_q6_k(values: Floats, bits: Bits, weights: Floats, out: Bytes, left: Bytes) -> np.uint32:
    return q6_k.quantize(values, bits, weights, out, left)  # type: ignore[no-any-return]


@compiled
def to_q4_0(values: Floats, bits: Bits, weights: Floats, out: Bytes, left: Bytes) -> np.uint32:
    if weights.size:
        return q4_0.quantize_q4_by_importance(values, bits, weights, out, left)  # type: ignore[no-any-return]
    return q4_0.quantize_q4(values, bits, out, left)  # type: ignore[no-any-return]


@compiled
def to_q5_0(values: Floats, bits: Bits, weights: Floats, out: Bytes, left: Bytes) -> np.uint32:
    if weights.size:
        return q4_0.quantize_q5_by_importance(values, bits, weights, out, left)  # type: ignore[no-any-return]
    return q4_0.quantize_q5(values, bits, out, left)  # type: ignore[no-any-return]


@compiled
def to_q8_0(values: Floats, bits: Bits, weights: Floats, out: Bytes, left: Bytes) -> np.uint32:
    return q8_0.quantize(values, bits, weights, out, left)  # type: ignore[no-any-return]


@compiled
def to_iq4_xs(values: Floats, bits: Bits, weights: Floats, out: Bytes, left: Bytes) -> np.uint32:
    return iq4.quantize_xs(values, bits, weights, out, left)  # type: ignore[no-any-return]


@compiled
def to_iq4_nl(values: Floats, bits: Bits, weights: Floats, out: Bytes, left: Bytes) -> np.uint32:
    return iq4.quantize_nl(values, bits, weights, out, left)  # type: ignore[no-any-return]


BY_TYPE = {
    Type.Q2_K: to_q2_k,
    Type.Q3_K: to_q3_k,
    Type.Q4_K: to_q4_k,
    Type.Q5_K: to_q5_k,
    Type.Q6_K: to_q6_k,
    Type.Q4_0: to_q4_0,
    Type.Q5_0: to_q5_0,
    Type.Q8_0: to_q8_0,
    Type.IQ4_XS: to_iq4_xs,
    Type.IQ4_NL: to_iq4_nl,
}
