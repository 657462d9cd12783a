"""Values back from quantized bytes, by the kernels that llama.cpp itself runs.

gguf.quants does the same in NumPy at a tenth of the rate; a test holds the two together.
"""

import ctypes
from collections.abc import Callable
from functools import cache

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from numpy.typing import NDArray

from convert.kernels.ggml import library_path

Buffer = bytearray | NDArray[np.uint8]


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
def _to_float(kind: GGMLQuantizationType) -> Callable[[int, int, int], None]:
    function = ctypes.CDLL(str(library_path())).ggml_get_type_traits
    function.restype = ctypes.POINTER(_Traits)
    function.argtypes = [ctypes.c_int]
    traits = function(int(kind)).contents
    assert (traits.blck_size, traits.type_size) == GGML_QUANT_SIZES[kind]
    convert: Callable[[int, int, int], None] = traits.to_float
    return convert


def dequantize(kind: GGMLQuantizationType, data: Buffer) -> NDArray[np.float32]:
    """The values of whole blocks, float32 of shape (values,). The Python lock isn't held."""
    source = np.frombuffer(data, np.uint8)
    if kind == GGMLQuantizationType.F32:
        return source.view(np.float32)
    block, nbytes = GGML_QUANT_SIZES[kind]
    blocks, rest = divmod(source.size, nbytes)
    if rest:
        raise ValueError(f"{source.size} bytes are not whole {kind.name} blocks")
    values = np.empty(blocks * block, np.float32)
    _to_float(kind)(source.ctypes.data, values.ctypes.data, values.size)
    return values
