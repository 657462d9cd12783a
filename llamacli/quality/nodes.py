"""Nodes of llama.cpp's graph as its evaluation callback shows them: which weights are multiplied
with which activations, and those activations' values.

The layout is that of struct ggml_tensor in ggml.h, held against ggml's own accessors once.
"""

import ctypes
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convert import library_path
from llamacli.errors import LlamacliError

F32 = 0
LEAST_ROWS = 16  # fewer activations aren't a prompt's; llama-imatrix leaves them out as well


class _Tensor(ctypes.Structure):
    """struct ggml_tensor."""


_Tensor._fields_ = (
    ("type", ctypes.c_int),
    ("buffer", ctypes.c_void_p),
    ("ne", ctypes.c_int64 * 4),
    ("nb", ctypes.c_size_t * 4),
    ("op", ctypes.c_int),
    ("op_params", ctypes.c_int32 * 16),
    ("flags", ctypes.c_int32),
    ("src", ctypes.POINTER(_Tensor) * 10),
    ("view_src", ctypes.POINTER(_Tensor)),
    ("view_offs", ctypes.c_size_t),
    ("data", ctypes.c_void_p),
    ("name", ctypes.c_char * 64),
    ("extra", ctypes.c_void_p),
    ("padding", ctypes.c_char * 8),
)


@cache
def _ggml() -> Any:
    library: Any = ctypes.CDLL(str(library_path()))
    library.ggml_get_name.restype = ctypes.c_void_p
    library.ggml_get_data.restype = ctypes.c_void_p
    library.ggml_get_name.argtypes = library.ggml_get_data.argtypes = [ctypes.c_void_p]
    library.ggml_nbytes.restype = ctypes.c_size_t
    library.ggml_nbytes.argtypes = [ctypes.c_void_p]
    library.ggml_op_name.restype = ctypes.c_char_p
    library.ggml_op_name.argtypes = [ctypes.c_int]
    library.ggml_backend_tensor_get.restype = None
    library.ggml_backend_tensor_get.argtypes = [
        *(ctypes.c_void_p, ctypes.c_void_p),  # tensor, to where
        *(ctypes.c_size_t, ctypes.c_size_t),  # first byte, bytes
    ]
    return library


@cache
def _multiplies(op: int) -> bool:
    """Whether this number of an operation is a matrix's multiplication, by ggml's own names."""
    return bool(_ggml().ggml_op_name(op) == b"MUL_MAT")


def weights_of(pointer: int) -> str:
    """The name of the weights that a node multiplies activations with; empty for other nodes."""
    if not _multiplies(ctypes.c_int.from_address(pointer + _Tensor.op.offset).value):
        return ""
    node = _Tensor.from_address(pointer)
    weights, activations = node.src[0].contents, node.src[1].contents
    if activations.ne[1] < LEAST_ROWS or activations.type != F32:
        return ""
    # A copy on another device is CUDA0#blk.0.attn_k.weight#0.
    name: bytes = weights.name
    return name.split(b"#")[1 if b"#" in name else 0].decode(errors="replace")


def activations_at(pointer: int) -> int:
    """The address of the tensor of activations that a multiplication takes."""
    return ctypes.addressof(_Tensor.from_address(pointer).src[1].contents)


def read_activations(address: int) -> NDArray[np.float32]:
    """The values of a float32 tensor on any device, of shape (rows, columns), a copy."""
    tensor = _Tensor.from_address(address)
    nbytes = _ggml().ggml_nbytes(address)
    raw = np.empty(nbytes // 4, np.float32)
    _ggml().ggml_backend_tensor_get(address, raw.ctypes.data, 0, nbytes)
    shape, strides = tuple(tensor.ne)[::-1], tuple(tensor.nb)[::-1]
    values = np.lib.stride_tricks.as_strided(raw, shape, strides, writeable=False)
    return values.reshape(-1, shape[-1])


def check_layout(pointer: int) -> None:
    """Raises LlamacliError where this llama.cpp lays its tensors out otherwise."""
    node = _Tensor.from_address(pointer)
    name = ctypes.addressof(node) + _Tensor.name.offset
    if _ggml().ggml_get_name(pointer) != name or _ggml().ggml_get_data(pointer) != node.data:
        raise LlamacliError(
            "this llama.cpp lays its tensors out otherwise; activations can't be read"
        )
