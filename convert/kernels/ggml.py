"""ggml's own quantization kernels, reached with ctypes in llama-cpp-python's libraries."""

import ctypes
import importlib.util
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Protocol

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from numpy.typing import NDArray

from convert import system
from convert.errors import QuantizationError

INFINITY = 0x7F800000  # as the bits of a float32: a kernel's result from here on is not finite
LARGEST_F16 = 0x477FE000  # 65504, as such bits: blocks' scales are in half precision
# ggml looks these types' values up in a codebook, and ends the process over what can't be in it.
CODEBOOKS = tuple(
    kind for kind in GGMLQuantizationType if kind.name.startswith(("IQ1", "IQ2", "IQ3"))
)

Values = NDArray[np.float32] | NDArray[np.uint16]


class Kernel(Protocol):
    """A quantizer of one type.

    It quantizes float32 values, or BF16 ones as uint16 bits, into the uint8 array out, both
    contiguous, whole blocks, and returns the largest magnitude among the values as the bits of a
    float32 (from INFINITY on, there are NaN or infinite ones). With importances, float32 of shape
    (columns,), values are whole rows, whose errors they weigh. It may be called by many threads at
    once and doesn't hold the Python lock.
    """

    def __call__(
        self,
        values: Values,
        out: NDArray[np.uint8],
        importances: NDArray[np.float32] | None = None,
        /,
    ) -> int: ...


def library_path() -> Path:
    """libggml-base as llama-cpp-python ships it, found without importing the package."""
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or not spec.submodule_search_locations:
        raise QuantizationError("llama-cpp-python is not installed; run `make install`")
    path = Path(spec.submodule_search_locations[0]) / "lib" / system.library_name("ggml-base")
    if not path.exists():
        raise QuantizationError(f"{path} is missing; reinstall llama-cpp-python")
    return path


@cache
def _quantize_chunk() -> Callable[..., int]:
    function = ctypes.CDLL(str(library_path())).ggml_quantize_chunk
    function.restype = ctypes.c_size_t
    function.argtypes = [
        ctypes.c_int,  # type
        ctypes.c_void_p,  # source, float32
        ctypes.c_void_p,  # destination
        ctypes.c_int64,  # first value
        ctypes.c_int64,  # rows
        ctypes.c_int64,  # values a row
        ctypes.c_void_p,  # importance matrix
    ]
    return function


def quantize(
    kind: GGMLQuantizationType,
    values: NDArray[np.float32],
    importances: NDArray[np.float32] | None = None,
) -> NDArray[np.uint8]:
    """Quantize values, float32 of shape (rows, columns), to bytes of shape (rows, row bytes).

    columns must be a multiple of the type's block size. importances, float32 of shape (columns,),
    are the weights of the errors in each row. ctypes releases the GIL during the call.
    """
    block_size, type_size = GGML_QUANT_SIZES[kind]
    rows, columns = values.shape
    if columns % block_size:
        raise ValueError(f"{columns} columns are not whole {kind.name} blocks of {block_size}")
    values = np.ascontiguousarray(values, dtype=np.float32)
    if kind == GGMLQuantizationType.F32:
        return values.view(np.uint8)
    weights = None
    if importances is not None:
        importances = np.ascontiguousarray(importances, dtype=np.float32)
        if importances.shape != (columns,):
            raise ValueError(f"{importances.shape} importances for {columns} columns")
        weights = importances.ctypes.data
    result = np.empty((rows, columns // block_size * type_size), dtype=np.uint8)
    written = _quantize_chunk()(
        int(kind), values.ctypes.data, result.ctypes.data, 0, rows, columns, weights
    )
    assert written == result.nbytes
    return result


def ggml_kernel(kind: GGMLQuantizationType) -> Kernel:
    """ggml's own kernel of a type; where its result is beyond LARGEST_F16, out may be as it was."""

    def run(
        values: Values, out: NDArray[np.uint8], importances: NDArray[np.float32] | None = None
    ) -> int:
        largest = largest_magnitude(values)
        if largest <= LARGEST_F16 or kind not in CODEBOOKS:
            columns = -1 if importances is None else importances.size
            rows = as_float32(values).reshape(-1 if importances is not None else 1, columns)
            out.reshape(-1)[:] = quantize(kind, rows, importances).reshape(-1)
        return largest

    return run


def as_float32(values: Values) -> NDArray[np.float32]:
    """The values as float32: as they are, or widened from BF16 bits."""
    if values.dtype == np.float32:
        return values  # type: ignore[return-value]
    wide = values.astype(np.uint32)
    wide <<= 16
    return wide.view(np.float32)


def largest_magnitude(values: Values) -> int:
    """The largest magnitude as the bits of a float32; NaN counts as larger than infinity."""
    if not values.size:
        return 0
    if values.dtype == np.float32:
        return int((values.view(np.uint32) & np.uint32(0x7FFFFFFF)).max())
    return int((values & np.uint16(0x7FFF)).max()) << 16  # type: ignore[operator]
