"""The fastest kernel for each quantization type that gives ggml's bytes on this machine.

For Q4_K, Q5_K and Q6_K there are kernels compiled by numba (the extra `llamacli[fast]`). One is
used once it was compared with ggml's own kernel on this machine, with these library versions:
a libggml built with fused multiply-add rounds differently. The result is kept in the user's
cache folder, with the compiled code.
"""

import contextlib
import hashlib
import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from numpy.typing import NDArray

from convert.kernels.comparison import BLOCK, Kernel, differences, speedup
from convert.kernels.ggml import library_path, quantize

Type = GGMLQuantizationType
KINDS = (
    *(Type.Q6_K, Type.Q5_K, Type.Q4_K, Type.Q3_K, Type.Q2_K),
    *(Type.IQ4_XS, Type.IQ4_NL, Type.Q5_0, Type.Q4_0),
)
WHOLE_ROWS = (Type.Q5_0, Type.Q4_0)  # importances count beside the whole row's mean square
SOURCES = sorted(path.name for path in Path(__file__).parent.glob("*.py"))
BLOCKS_COMPARED = 256  # of each kind of values
BLOCKS_TIMED = 1024
INFINITY = 0x7F800000  # as the bits of a float32: a kernel's result from here on is not finite

Values = NDArray[np.float32] | NDArray[np.uint16]


@dataclass(frozen=True)
class Choice:
    """A kernel for one type, whether it is the compiled one, and why, in words.

    kernel(values, out, importances) quantizes float32 values, or BF16 ones as uint16 bits, into the
    uint8 array out, both contiguous, whole blocks, and returns the largest magnitude among the
    values as the bits of a float32 (from INFINITY on, there are NaN or infinite ones). With
    importances, float32 of shape (columns,), values are whole rows, whose errors they weigh. It may
    be called by many threads at once and doesn't hold the Python lock.
    """

    kernel: Kernel
    compiled: bool
    reason: str


@dataclass(frozen=True)
class Check:
    """What comparing the compiled kernel with ggml's showed.

    speedup is how many times faster it is, by_importance the same with importances.
    """

    differences: list[str]
    speedup: float
    by_importance: float


def available() -> bool:
    """Whether numba is installed."""
    return importlib.util.find_spec("numba") is not None


def choose(
    kind: GGMLQuantizationType,
    *,
    on_compile: Callable[[], None] | None = None,
    folder: Path | None = None,
) -> Choice:
    """The compiled kernel where there is one, it gives ggml's bytes and is faster; else ggml's.

    on_compile is called before the first compilation and check on this machine, which take some
    seconds. folder is for the results and the compiled code, the user's cache folder by default;
    where it can't be written, every process compiles. Call it from one thread at a time.
    """
    reference = ggml_kernel(kind)
    if kind not in KINDS:
        return Choice(reference, False, f"{kind.name}: ggml's kernel")
    if not available():
        return Choice(
            reference,
            False,
            f"{kind.name}: ggml's kernel; numba is not installed (the extra llamacli[fast])",
        )
    try:
        return _checked(kind, reference, on_compile, folder or _user_cache())
    except Exception as error:  # whatever a broken or too new numba raises: ggml's kernel serves
        message = str(error).strip().partition("\n")[0]
        return Choice(
            reference,
            False,
            f"{kind.name}: ggml's kernel; compiling a faster one failed: "
            f"{type(error).__name__}: {message}",
        )


def ggml_kernel(kind: GGMLQuantizationType) -> Kernel:
    """ggml's own kernel as a Choice describes it."""

    def run(
        values: Values, out: NDArray[np.uint8], importances: NDArray[np.float32] | None = None
    ) -> int:
        columns = -1 if importances is None else importances.size
        rows = as_float32(values).reshape(-1 if importances is not None else 1, columns)
        out.reshape(-1)[:] = quantize(kind, rows, importances).reshape(-1)
        return largest_magnitude(values)

    return run


def compiled_kernel(kind: GGMLQuantizationType, cache: Path | None = None) -> Kernel:
    """The kernel that numba compiles, or loads from the folder cache; ggml does what it leaves.

    Raises ImportError without numba, and KeyError for a type outside KINDS.
    """
    from numba import types

    from convert.kernels.iq4 import quantize_iq4_nl, quantize_iq4_xs
    from convert.kernels.q2_k import quantize_q2
    from convert.kernels.q3_k import quantize_q3
    from convert.kernels.q4_0 import quantize_q4_0_q5_0
    from convert.kernels.q4_k import quantize_q4_q5
    from convert.kernels.q6_k import quantize_q6

    function: Any
    function, arguments = {
        Type.Q6_K: (quantize_q6, ()),
        Type.Q5_K: (quantize_q4_q5, (True,)),
        Type.Q4_K: (quantize_q4_q5, (False,)),
        Type.IQ4_XS: (quantize_iq4_xs, ()),
        Type.IQ4_NL: (quantize_iq4_nl, ()),
        Type.Q3_K: (quantize_q3, ()),
        Type.Q2_K: (quantize_q2, ()),
        Type.Q5_0: (quantize_q4_0_q5_0, (True,)),
        Type.Q4_0: (quantize_q4_0_q5_0, (False,)),
    }[kind]
    signature = (
        types.Array(types.float32, 1, "C", readonly=True),
        types.Array(types.uint16, 1, "C", readonly=True),
        types.Array(types.float32, 1, "C", readonly=True),
        types.Array(types.uint8, 2, "C"),
        types.Array(types.uint8, 1, "C"),
        *(types.boolean for _ in arguments),
    )
    if cache is not None:
        _enable_cache(function, cache)
    function.compile(signature)
    no_values, no_bits = np.empty(0, np.float32), np.empty(0, np.uint16)
    no_values.flags.writeable = no_bits.flags.writeable = False  # as in the signature
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
            weights = np.require(importances, np.float32, ["C", "A"]).reshape(-1).view()
            weights.flags.writeable = False
        values = np.require(values, requirements=["C", "A"]).reshape(-1)
        values.flags.writeable = False
        rows = out.reshape(-1, nbytes)
        left = np.empty(len(rows), np.uint8)
        wide = values.dtype == np.float32
        sources = (values, no_bits) if wide else (no_values, values)
        largest = int(function(*sources, weights, rows, left, *arguments))
        if not left.any():
            return largest
        if not weights.size:
            for first, last in _runs(left):
                part = as_float32(values[first * block : last * block]).reshape(-1, block)
                rows[first:last] = quantize(kind, part)
            return largest
        unit = weights.size if kind in WHOLE_ROWS else block  # what ggml must see at once
        for first in np.unique(np.flatnonzero(left) * block // unit * unit):
            part = as_float32(values[first : first + unit]).reshape(1, unit)
            place = first % weights.size
            done = quantize(kind, part, weights[place : place + unit]).reshape(-1, nbytes)
            rows[first // block : (first + unit) // block] = done
        return largest

    return run


def chunk_nbytes(kind: GGMLQuantizationType) -> int:
    """Bytes that the compiled kernels' unit, BLOCK values, takes."""
    block, nbytes = GGML_QUANT_SIZES[kind]
    return BLOCK // block * nbytes


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


def _runs(left: NDArray[np.uint8]) -> list[tuple[int, int]]:
    """The first and one past the last index of each run of ones."""
    edges = np.flatnonzero(np.diff(left, prepend=np.uint8(0), append=np.uint8(0)))
    return [(int(first), int(last)) for first, last in edges.reshape(-1, 2)]


def _checked(
    kind: GGMLQuantizationType,
    reference: Kernel,
    on_compile: Callable[[], None] | None,
    folder: Path,
) -> Choice:
    key = _key()
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    result = folder / f"{kind.name}-{digest}.json"
    check = _stored(result)
    if check is None and on_compile is not None:
        on_compile()
    kernel = reference
    if check is None or _good(check):
        kernel = _compiled_or_again(kind, folder / digest)
    if check is None:
        nbytes = chunk_nbytes(kind)
        check = Check(
            differences(kernel, reference, nbytes, BLOCKS_COMPARED),
            speedup(kernel, reference, nbytes, BLOCKS_TIMED),
            speedup(kernel, reference, nbytes, BLOCKS_TIMED, by_importance=True),
        )
        _store(result, {"key": key, **asdict(check)})
    if check.differences:
        names = ", ".join(check.differences)
        return Choice(
            reference, False, f"{kind.name}: ggml's kernel; the compiled differs ({names})"
        )
    rate = f"{check.speedup:.1f} times ggml's rate, {check.by_importance:.1f} by importance"
    if not _good(check):
        return Choice(reference, False, f"{kind.name}: ggml's kernel; the compiled has {rate}")
    faster = _faster_of(kernel, reference, check)
    return Choice(faster, True, f"{kind.name}: compiled kernel, ggml's bytes at {rate}")


def _good(check: Check) -> bool:
    return not check.differences and max(check.speedup, check.by_importance) > 1


def _faster_of(kernel: Kernel, reference: Kernel, check: Check) -> Kernel:
    """The faster one for values alone, and for values with importances."""
    plain = kernel if check.speedup > 1 else reference
    weighted = kernel if check.by_importance > 1 else reference
    if plain is weighted:
        return plain

    def run(
        values: Values, out: NDArray[np.uint8], importances: NDArray[np.float32] | None = None
    ) -> int:
        return (plain if importances is None else weighted)(values, out, importances)

    return run


def _compiled_or_again(kind: GGMLQuantizationType, cache: Path) -> Kernel:
    """The compiled kernel; where loading it fails, its cache may be damaged and is made anew."""
    try:
        return compiled_kernel(kind, cache)
    except Exception:
        shutil.rmtree(cache, ignore_errors=True)
        return compiled_kernel(kind)


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


def _user_cache() -> Path:
    import platformdirs

    return platformdirs.user_cache_path("llamacli") / "quantizers"


def _key() -> dict[str, str]:
    """What the result of a check hangs on."""
    from llvmlite.binding import (  # type: ignore[import-untyped]
        get_host_cpu_features,
        get_host_cpu_name,
    )

    sources = b"".join((Path(__file__).parent / name).read_bytes() for name in SOURCES)
    return {
        "processor": get_host_cpu_name(),
        "features": get_host_cpu_features().flatten(),
        "numba": version("numba"),
        "llvmlite": version("llvmlite"),
        "numpy": version("numpy"),
        "llama-cpp-python": version("llama-cpp-python"),
        "libggml-base": hashlib.sha256(library_path().read_bytes()).hexdigest(),
        "sources": hashlib.sha256(sources).hexdigest(),
    }


def _stored(path: Path) -> Check | None:
    """The result of an earlier check; None where there is none that can be read."""
    try:
        kept = json.loads(path.read_bytes())
        rates = float(kept["speedup"]), float(kept["by_importance"])
        check = Check(list(map(str, kept["differences"])), *rates)
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return check


def _store(path: Path, content: dict[str, Any]) -> None:
    """Write JSON under a temporary name and rename it; a folder that can't be written is let be."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(content, indent=1))
        part.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink()
