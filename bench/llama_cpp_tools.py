"""llama.cpp's own tools, built from llama-cpp-python's source package: the same commit.

The package holds llama.cpp's whole source. `tool("llama-bench")` fetches it with pip, compiles the
tools with CMake (about 6 minutes on 2 cores) once, and gives the path of the program:
~/.cache/llamacli/tools/<version>/bin/llama-bench.
"""

import json
import os
import statistics
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

TARGETS = (
    *("llama-bench", "llama-quantize", "llama-completion", "llama-batched-bench", "llama-server"),
    "llama-imatrix",
)


def tool(name: str, *, rpc: bool = False) -> Path:
    """The path of one of TARGETS, compiled now where it isn't there yet, with RPC apart."""
    folder = _cache() / "tools" / (version("llama-cpp-python") + "-rpc" * rpc)
    program = folder / "build" / "bin" / name
    if not program.exists():
        _build(folder, *(["-DGGML_RPC=ON"] if rpc else []))
    return program


def llama_bench(
    model: Path, *options: str | int, repeats: int = 1, rpc: bool = False
) -> list[float]:
    """Tokens a second of each test that llama-bench makes of the options, the median of repeats."""
    from llamacli.machine.cores import physical_cores

    command = [tool("llama-bench", rpc=rpc), "-m", model, "-t", physical_cores(), "-r", repeats]
    output = subprocess.run(
        [*map(str, [*command, "-o", "json", *options])], check=True, capture_output=True
    ).stdout
    return [statistics.median(test["samples_ts"]) for test in json.loads(output)]


def _cache() -> Path:
    import platformdirs

    return platformdirs.user_cache_path("llamacli")


def _build(folder: Path, *more: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    package = f"llama-cpp-python=={version('llama-cpp-python')}"
    print(f"compiling llama.cpp's tools from {package}, this once", file=sys.stderr)
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    _run([*pip, "--no-binary", ":all:", "--dest", str(folder), package])
    archive = next(folder.glob("*.tar.gz"))
    with tarfile.open(archive) as source:
        source.extractall(folder, filter="data")
    root = archive.with_name(archive.name.removesuffix(".tar.gz"))
    build = folder / "build"
    flags = ["-DCMAKE_BUILD_TYPE=Release", "-DLLAMA_CURL=OFF", "-DLLAMA_USE_PREBUILT_UI=OFF"]
    source_folder = str(root / "vendor" / "llama.cpp")
    _run(["cmake", "-S", source_folder, "-B", str(build), *flags, *more])
    jobs = str(os.cpu_count() or 1)
    _run(["cmake", "--build", str(build), "--parallel", jobs, "--target", *TARGETS])


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, stdout=sys.stderr)


if __name__ == "__main__":
    for target in TARGETS:
        print(tool(target))
