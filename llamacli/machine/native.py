"""llama.cpp through llama-cpp-python's low-level module: the one place that imports it."""

import ctypes
import importlib
import importlib.util
import sys
from collections import deque
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from convert import deferred_signals, library_name
from llamacli import system
from llamacli.errors import LlamacliError
from llamacli.terminal import debugging, writer

ERROR, CONTINUED = 4, 5  # ggml's log levels; a continued line belongs to the one before

# The last errors llama.cpp logged: all it tells of why a call gave nothing.
_errors: deque[str] = deque(maxlen=8)


def load_library() -> Any:
    """The module llama_cpp.llama_cpp, ready to use: its log on stderr with --debug, else silenced.

    Raises LlamacliError where llama-cpp-python isn't installed or can't be loaded.
    """
    library = _library()
    _set_log(library)
    return library


def logged_reason() -> str:
    """llama.cpp's last error, to be put behind a message of ours; empty where there was none."""
    return f": {' '.join(_errors[-1].split())}" if _errors and _errors[-1].strip() else ""


def versions() -> dict[str, str]:
    """Versions by name: llama-cpp-python and llama.cpp."""
    from importlib.metadata import version  # 20 ms that only --version needs

    library = load_library()
    return {
        "llama-cpp-python": version("llama-cpp-python"),
        "llama.cpp": library.llama_version().decode(errors="replace"),
    }


def build_features() -> dict[str, dict[str, str]]:
    """What each backend of llama.cpp was compiled for: {"CPU": {"AVX2": "1", …}, "CUDA": …}."""
    features: dict[str, dict[str, str]] = {}
    backend = ""
    for part in _library().llama_print_system_info().decode(errors="replace").split("|"):
        name, _, value = part.rpartition("=")
        if ":" in name:
            backend, _, name = name.rpartition(":")
        if name.strip():
            features.setdefault(backend.strip(), {})[name.strip()] = value.strip()
    return features


def library_comments() -> list[str]:
    """What compilers left of their names and versions in ggml's CPU library; empty if unknown."""
    texts = []
    for file in sorted(Path(_library()._lib._name).parent.glob("*ggml-cpu*"))[:1]:
        data = file.read_bytes()
        for start in (b"GCC: (", b"clang version "):
            if (at := data.find(start)) >= 0:
                texts.append(data[at : data.find(b"\0", at)].decode(errors="replace"))
    return texts


@cache
def ggml_function(name: str, result: Any, *arguments: Any) -> Any:
    """A function of ggml, which llama-cpp-python's module leaves out, with its ctypes.

    Raises LlamacliError where this version of llama.cpp has none of that name.
    """
    for library in _libraries():
        function = getattr(library, name, None)
        if function is not None:
            function.restype, function.argtypes = result, arguments
            return function
    raise LlamacliError(f"this llama.cpp has no {name}; install the version that llamacli names")


@cache
def _libraries() -> list[ctypes.CDLL]:
    """Where ggml's functions are: libllama's handle reaches them all, but on Windows.

    Opened by a path of their own, the libraries could be loaded a second time.
    """
    llama: ctypes.CDLL = _library()._lib
    if not system.WINDOWS:
        return [llama]
    folder = Path(llama._name).parent
    names = ("ggml", "ggml-base", "ggml-rpc")  # the last one not in every build
    paths = [folder / library_name(name) for name in names]
    return [ctypes.CDLL(str(path)) for path in paths if path.exists()]


@cache
def _library() -> Any:
    library = _import_low_level()
    _set_log(library)  # before the backends are loaded, which tell at once what they found
    with deferred_signals([]):
        library.llama_backend_init()
    return library


def _set_log(library: Any) -> None:
    library.llama_log_set(_log_callback(library, debugging()), ctypes.c_void_p(0))


def _import_low_level() -> ModuleType:
    """Import llama_cpp.llama_cpp without llama_cpp/__init__, whose high-level class costs 0.15 s.

    A bare package stands in for the time of the import; whoever imports llama_cpp afterwards
    gets the real one.
    """
    try:
        if "llama_cpp" in sys.modules:
            return importlib.import_module("llama_cpp.llama_cpp")
        spec = importlib.util.find_spec("llama_cpp")
        if spec is None:
            raise LlamacliError("llama-cpp-python is not installed; run `make install`")
        sys.modules["llama_cpp"] = package = ModuleType("llama_cpp")
        package.__path__ = list(spec.submodule_search_locations or ())
        try:
            return importlib.import_module("llama_cpp.llama_cpp")
        finally:
            del sys.modules["llama_cpp"]
    except (ImportError, OSError, RuntimeError) as error:
        raise LlamacliError(f"llama-cpp-python can't be loaded: {error}") from error


@cache  # C holds it, and may be calling it in another thread: it lives as long as the process
def _log_callback(library: Any, debug: bool) -> Any:
    last_level = 0

    def log(level: int, text: bytes, _: Any) -> None:
        nonlocal last_level
        if level != CONTINUED:
            last_level = level
        if last_level == ERROR:
            _errors.append(text.decode(errors="replace"))
        if debug:
            writer(sys.stderr)(text.decode(errors="replace"))

    return library.llama_log_callback(log)
