"""llama.cpp's own tools, built from llama-cpp-python's source package: the same commit.

The package holds llama.cpp's whole source. `tool("llama-bench")` fetches it with pip, compiles the
program with CMake (about 6 minutes on 2 cores; CMAKE_BUILD_PARALLEL_LEVEL says how many jobs) once,
with llama.cpp.cmake and RPC as the wheel is, and gives its path:
~/.cache/llamacli/tools/<version>/build/bin/llama-bench. Where LLAMACLI_TOOLS names a folder with
programs built elsewhere, for a GPU say, they are taken from there and none is compiled.
"""

import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path

TARGETS = (
    *("llama-bench", "llama-quantize", "llama-completion", "llama-batched-bench", "llama-server"),
    "llama-imatrix",
)
FOLDER = "LLAMACLI_TOOLS"


def tool(name: str) -> Path:
    """The path of one of TARGETS, compiled now where it isn't there yet.

    Raises FileNotFoundError where a folder was named that hasn't it.
    """
    if given := os.environ.get(FOLDER):
        if not (program := Path(given) / name).exists():
            raise FileNotFoundError(f"{program} isn't there")
        return program
    folder = _cache() / "tools" / version("llama-cpp-python")
    program = folder / "build" / "bin" / name
    if not program.exists():
        _build(folder, name)
    return program


def llama_bench(model: Path, *options: str | int, repeats: int = 1) -> list[float]:
    """Tokens a second of each test that llama-bench makes of the options, the median of repeats."""
    from llamacli.machine import physical_cores

    command = [tool("llama-bench"), "-m", model, "-t", physical_cores(), "-r", repeats]
    output = subprocess.run(
        [*map(str, [*command, "-o", "json", *options])], check=True, capture_output=True
    ).stdout
    return [statistics.median(test["samples_ts"]) for test in json.loads(output)]


def _cache() -> Path:
    import platformdirs

    return platformdirs.user_cache_path("llamacli")


def _build(folder: Path, name: str) -> None:
    root, build = _source(folder), folder / "build"
    ours = Path(__file__).parents[1] / "llama.cpp.cmake"  # the wheel leaves LLAMA_BUILD_COMMON out
    include = folder / "tools.cmake"
    include.write_text(f'include("{ours}")\nset(LLAMA_BUILD_COMMON ON)\n')
    flags = ["-DCMAKE_BUILD_TYPE=Release", f"-DCMAKE_PROJECT_llama.cpp_INCLUDE={include}"]
    flags += ["-DGGML_RPC=ON", "-DLLAMA_OPENSSL=OFF", "-DLLAMA_USE_PREBUILT_UI=OFF"]
    source = str(root / "vendor" / "llama.cpp")
    _run(["cmake", "-S", source, "-B", str(build), *flags])
    jobs = os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL") or str(os.cpu_count() or 1)
    _run(["cmake", "--build", str(build), "--parallel", jobs, "--target", name])


def _source(folder: Path) -> Path:
    """The package's unpacked source, fetched where it isn't there yet."""
    package = f"llama-cpp-python=={version('llama-cpp-python')}"
    print(f"compiling llama.cpp's tools from {package}, this once", file=sys.stderr)
    root = folder / package.replace("==", "-").replace("llama-cpp-python", "llama_cpp_python")
    if not root.exists():
        folder.mkdir(parents=True, exist_ok=True)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        _run([*pip, "--no-binary", ":all:", "--dest", str(folder), package])
        with tempfile.TemporaryDirectory(dir=folder) as part:
            with tarfile.open(root.with_name(f"{root.name}.tar.gz")) as source:
                source.extractall(part, filter="data")
            (Path(part) / root.name).rename(root)
    return root


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, stdout=sys.stderr)


if __name__ == "__main__":
    for target in TARGETS:
        print(tool(target))
