"""Values back from quantized bytes, by the kernels that llama.cpp itself runs.

gguf.quants does the same in NumPy at a tenth of the rate; a test holds the two together.
"""

import ctypes
from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray

from convert.kernels import library_path
from llamacli.gguf import TENSOR_TYPES, TensorType

NUMBERS = {kind: number for number, kind in TENSOR_TYPES.items()}


class _Traits(ctypes.Structure):
    """ggml_type_traits of ggml.h, as far as it is read here."""

    _fields_ = (
        ("type_name", ctypes.c_char_p),
        ("blck_size", ctypes.c_int64),
        ("blck_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
    )


@cache
def _to_float(kind: TensorType) -> Callable[[int, int, int], None]:
    function = ctypes.CDLL(str(library_path())).ggml_get_type_traits
    function.restype = ctypes.POINTER(_Traits)
    function.argtypes = [ctypes.c_int]
    traits = function(NUMBERS[kind]).contents
    assert (traits.blck_size, traits.type_size) == (kind.block, kind.nbytes)
    convert: Callable[[int, int, int], None] = traits.to_float
    return convert


def dequantize(kind: TensorType, data: bytearray) -> NDArray[np.float32]:
    """The values of whole blocks, float32 of shape (values,). The Python lock isn't held."""
    if kind.name == "F32":
        return np.frombuffer(data, np.float32)
    blocks, rest = divmod(len(data), kind.nbytes)
    if rest:
        raise ValueError(f"{len(data)} bytes are not whole {kind.name} blocks")
    values = np.empty(blocks * kind.block, np.float32)
    source = np.frombuffer(data, np.uint8)
    _to_float(kind)(source.ctypes.data, values.ctypes.data, values.size)
    return values
