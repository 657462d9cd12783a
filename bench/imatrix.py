"""Measuring an importance matrix beside llama-imatrix: how fast, and whether it is the same.

    python -m bench.imatrix [--model FILE] [--runs 3]

Both evaluate the same chunks of the calibration text that ships, loading included, llama-imatrix
without perplexities (which it computes only where asked). The note tells the largest difference
between the two matrices, in relation to the larger importance; and that for the demo in F32, where
nothing but the order of sums can differ.
"""

import subprocess
import time
from pathlib import Path

import numpy as np

from bench.compare import Outcome, Setup, Target, apart, figure, in_turn, ratio, run_alone
from bench.llama_cpp_tools import tool
from convert import convert, read_importance, write_importance
from llamacli.machine import physical_cores

CHUNKS = 4
PACKAGE = Path(__file__).parents[1] / "llamacli"
TEXT, DEMO = PACKAGE / "quality" / "calibration.txt", PACKAGE / "demo"


def llama_imatrix(model: Path, chunks: int, target: Path) -> float:
    """Tokens a second."""
    command = [tool("llama-imatrix"), "-m", model, "-f", TEXT, "-o", target, "--no-ppl"]
    options = ["--chunks", chunks, "-t", physical_cores(), "-b", 512]
    started = time.perf_counter()
    subprocess.run([*map(str, [*command, *options])], check=True, capture_output=True)
    return chunks * 512 / (time.perf_counter() - started)


def llamacli_imatrix(model: Path, chunks: int, target: Path) -> float:
    from llamacli.prompt import Text
    from llamacli.quality import measure_importance

    started = time.perf_counter()
    measured = measure_importance(model, [Text(TEXT.name, TEXT.read_text())], chunks=chunks)
    seconds = time.perf_counter() - started
    write_importance(target, measured, force=True)
    return chunks * 512 / seconds


def largest_difference(ours: Path, theirs: Path) -> float:
    matrices = [read_importance(path).entries for path in (ours, theirs)]
    assert matrices[0].keys() == matrices[1].keys()
    differences = [0.0]
    for name, entry in matrices[0].items():
        a, b = entry.importances, matrices[1][name].importances
        differences.append(float((np.abs(a - b) / np.maximum(a, b).clip(1e-30)).max()))
    return max(differences)


def measure(setup: Setup) -> Outcome:
    model, chunks = setup.model(), 1 if setup.quick else CHUNKS
    theirs, ours = setup.folder / "theirs.gguf", setup.folder / "ours.gguf"
    results = in_turn(
        {
            "llama-imatrix": lambda: llama_imatrix(model, chunks, theirs),
            "llamacli": lambda: apart(llamacli_imatrix, model, chunks, ours),
        },
        setup.times(3),
    )
    demo = setup.folder / "demo-F32.gguf"
    convert(DEMO, demo, "F32", force=True)
    exact = [setup.folder / f"{name}-F32.gguf" for name in ("ours", "theirs")]
    apart(llamacli_imatrix, demo, chunks, exact[0])
    llama_imatrix(demo, chunks, exact[1])
    return Outcome(
        "Importance matrix, 1B shape, Q4_K_M",
        tuple(figure(name, "tokens a second", values) for name, values in results.items()),
        (ratio("llamacli to it", results["llamacli"], results["llama-imatrix"], Target(0.9)),),
        f"{chunks} chunks of 512 tokens. In F32 (the demo) the importances differ by a share of "
        f"{largest_difference(*exact):.1g} at most; in Q4_K_M, where llama.cpp's kernels round "
        f"activations, and not all alike, by {largest_difference(ours, theirs):.1g}.",
    )


if __name__ == "__main__":
    run_alone(measure, __doc__)
