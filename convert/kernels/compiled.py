"""A compiled quantizer as a kernel: compiled or loaded, and ggml called for what it leaves."""

import importlib.util
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from numpy.typing import NDArray

from convert.kernels.ggml import Kernel, Values, as_float32, quantize

Type = GGMLQuantizationType
KINDS = (
    *(Type.Q6_K, Type.Q5_K, Type.Q4_K, Type.Q3_K, Type.Q2_K),
    *(Type.IQ4_XS, Type.IQ4_NL, Type.Q5_0, Type.Q4_0),
)
WHOLE_ROWS = (Type.Q5_0, Type.Q4_0)  # importances count beside the whole row's mean square


def available() -> bool:
    """Whether numba is installed."""
    return importlib.util.find_spec("numba") is not None


def compiled_kernel(kind: GGMLQuantizationType, cache: Path | None = None) -> Kernel:
    """The kernel that numba compiles, or loads from the folder cache; ggml does what it leaves.

    Raises ImportError without numba, and KeyError for a type outside KINDS and SEARCHED.
    """
    from numba import types

    from convert.kernels.by_type import BY_TYPE

    function: Any = BY_TYPE[kind]
    signature = (
        types.Array(types.float32, 1, "C", readonly=True),
        types.Array(types.uint16, 1, "C", readonly=True),
        types.Array(types.float32, 1, "C", readonly=True),
        types.Array(types.uint8, 2, "C"),
        types.Array(types.uint8, 1, "C"),
    )
    if cache is not None:
        _enable_cache(function, cache)
    function.compile(signature)
    no_values, no_bits = _read_only(np.empty(0, np.float32)), _read_only(np.empty(0, np.uint16))
    block, nbytes = GGML_QUANT_SIZES[kind]

    def run(
        values: Values, out: NDArray[np.uint8], importances: NDArray[np.float32] | None = None
    ) -> int:
        if values.size % block or out.nbytes != values.size // block * nbytes:
            raise ValueError(f"{out.nbytes} bytes for {values.size} values of {kind.name}")
        if not out.flags.c_contiguous:
            raise ValueError("the output is not contiguous")
        weights = no_values
        if importances is not None:
            if importances.size % block or values.size % importances.size:
                raise ValueError(f"{importances.size} importances for {values.size} values")
            weights = _read_only(importances)
        values = _read_only(values)
        rows = out.reshape(-1, nbytes)
        left = np.empty(len(rows), np.uint8)
        wide = values.dtype == np.float32
        sources = (values, no_bits) if wide else (no_values, values)
        largest = int(function(*sources, weights, rows, left))
        if left.any():
            columns = weights.size or block
            unit = columns if kind in WHOLE_ROWS else block  # what ggml must see at once
            values = values.reshape(-1, columns // unit, unit)
            units = rows.reshape(*values.shape[:2], unit // block * nbytes)
            wanted: NDArray[np.bool_] = left.reshape(*values.shape[:2], -1).max(axis=2) > 0
            for place in np.flatnonzero(wanted.any(axis=0)):
                here = wanted[:, place]
                own = weights[place * unit :][:unit] if weights.size else None
                units[here, place] = quantize(kind, as_float32(values[here, place]), own)
        return largest

    return run


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    """Its values as the signature has them."""
    flat = np.require(array, requirements=["C", "A"]).reshape(-1)
    flat.flags.writeable = False
    return flat


def _enable_cache(function: Any, cache: Path) -> None:
    """Let numba keep a function's code in the folder cache, where that can be written."""
    import numba

    config: Any = numba.config

    try:
        cache.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=cache).close()
    except OSError:
        return
    before = config.CACHE_DIR
    config.CACHE_DIR = str(cache)
    try:
        function.enable_caching()
    finally:
        config.CACHE_DIR = before
