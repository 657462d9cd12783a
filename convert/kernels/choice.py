"""The fastest kernel for each quantization type that gives ggml's bytes on this machine.

For most types there are kernels compiled by numba (the extra `llamacli[fast]`). One is used once it
was compared with ggml's own kernel on this machine, with these library versions: a libggml built
with fused multiply-add rounds differently. The result is kept in the user's cache folder, with the
compiled code.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from numpy.typing import NDArray

from convert.kernels.comparison import BLOCK, differences, speedup
from convert.kernels.compiled import KINDS, available, compiled_kernel
from convert.kernels.ggml import Kernel, Values, ggml_kernel, library_path
from convert.kernels.searched import SEARCHED, searched_kernel
from convert.kernels.unbiased import unbiased_kernel

SOURCES = sorted(path.name for path in Path(__file__).parent.glob("*.py"))
BLOCKS_COMPARED = 256  # of each kind of values
BLOCKS_TIMED = 1024


@dataclass(frozen=True)
class Check:
    """What comparing the compiled kernel with ggml's showed.

    speedup is how many times faster it is, by_importance the same with importances.
    """

    differences: list[str]
    speedup: float
    by_importance: float


def choose(
    kind: GGMLQuantizationType,
    *,
    searched: bool = False,
    notice: Callable[[str], object] = lambda _: None,
    folder: Path | None = None,
) -> Kernel:
    """The compiled kernel where there is one, it gives ggml's bytes and is faster; else ggml's.

    Where searched, that of a type which is searched further than by ggml gives the bytes that NumPy
    finds, which serves without it; the other types' blocks have their scales mended (unbiased).
    notice gets a line before the first compilation and check on this machine, and where these fail.
    folder is for the results and the compiled code, the user's cache folder by default; where it
    can't be written, every process compiles. Call it from one thread at a time.
    """
    if searched and kind not in SEARCHED:
        return unbiased_kernel(kind, choose(kind, notice=notice, folder=folder))
    reference = searched_kernel(kind) if searched else ggml_kernel(kind)
    if not available() or kind not in (SEARCHED if searched else KINDS):
        return reference
    try:
        return _checked(kind, reference, notice, folder or _user_cache())
    except Exception as error:  # whatever a broken or too new numba raises: ggml's kernel serves
        message = str(error).strip().partition("\n")[0]
        notice(f"the faster quantizers can't be compiled: {type(error).__name__}: {message}")
        return reference


def chunk_nbytes(kind: GGMLQuantizationType) -> int:
    """Bytes that the compiled kernels' unit, BLOCK values, takes."""
    block, nbytes = GGML_QUANT_SIZES[kind]
    return BLOCK // block * nbytes


def _checked(
    kind: GGMLQuantizationType,
    reference: Kernel,
    notice: Callable[[str], object],
    folder: Path,
) -> Kernel:
    """The faster one for values alone, and for values with importances."""
    key = _key()
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    result = folder / f"{kind.name}-{digest}.json"
    check = _stored(result)
    if check is None:
        notice("compiling the quantizers for this machine, this once: some seconds each")
    elif check.differences or max(check.speedup, check.by_importance) <= 1:
        return reference
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
            notice(f"the faster quantizer for {kind.name} isn't used: it differs ({names})")
    if check.differences:
        return reference
    plain = kernel if check.speedup > 1 else reference
    weighted = kernel if check.by_importance > 1 else reference

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
        return Check(list(map(str, kept["differences"])), *rates)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _store(path: Path, content: dict[str, Any]) -> None:
    """Write JSON under a temporary name and rename it; a folder that can't be written is let be."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(content, indent=1), "utf-8")
        part.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink()
