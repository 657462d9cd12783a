"""Measuring an importance matrix beside llama-imatrix: how fast, and whether it is the same.

    python -m bench.imatrix [--model FILE] [--runs 3]

Both evaluate the same chunks of the calibration text that ships, loading included, llama-imatrix
without perplexities (which it computes only where asked). The note tells the largest difference
between the two matrices, in relation to the larger importance.
"""

import subprocess
import time
from pathlib import Path

import numpy as np

from bench.compare import Outcome, Setup, Target, apart, figure, in_turn, ratio, run_alone
from bench.llama_cpp_tools import tool
from convert import read_importance, write_importance
from llamacli.machine.cores import physical_cores

CHUNKS = 4
TEXT = Path(__file__).parents[1] / "llamacli" / "quality" / "calibration.txt"


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
    return Outcome(
        "Importance matrix, 1B shape, Q4_K_M",
        tuple(figure(name, "tokens a second", values) for name, values in results.items()),
        (ratio("llamacli to it", results["llamacli"], results["llama-imatrix"], Target(0.9)),),
        f"{chunks} chunks of 512 tokens; the importances differ by a share of "
        f"{largest_difference(ours, theirs):.1g} at most.",
    )


if __name__ == "__main__":
    run_alone(measure, __doc__)
