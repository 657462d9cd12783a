"""What quantizing one matrix alone costs trained models, beside what `convert --fit` says it does.

    python -m bench.sensitivity [--only demo|smollm2] [--layers 0 1 7 29] [--threads N]

Each matrix becomes Q4_0 while all others stay as they are; the divergence from the unquantized
file is held against the cost by which types are chosen: by the model's gradients
(convert/fisher.py), and, as for weights on the Hub, by a part of the weights alone
(convert/sensitivity.py). The last two columns are the divergence over the cost, of which the
geometric mean is 1. Some minutes; nothing hangs on the speed.
"""

import argparse
import re
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType as Type

from bench.quality import MODELS, Model
from convert import convert, open_checkpoint
from convert.fisher import fisher_information
from convert.quantization import QUANTIZATIONS, adapted
from convert.sensitivity import costs
from convert.sized import measure_all
from llamacli.quality import compare, sample_tokens

KIND = Type.Q4_0


def predicted(model: Model, *, gradients: bool) -> dict[str, float]:
    """What each matrix costs as KIND, by its name."""
    checkpoint = open_checkpoint(model.checkpoint)
    tried = {spec: [KIND, Type.F16] for spec in checkpoint.weights if len(spec.shape) == 2}
    information = {}
    if gradients:
        information = fisher_information(checkpoint, sample_tokens(checkpoint)).columns
    measured = measure_all(checkpoint, tried, information, {}, {})
    layers = checkpoint.config.num_hidden_layers
    by_unit = {} if gradients else costs(measured, layers, known=False)
    return {name: by_unit.get(name, 1.0) * one.error(KIND) for name, one in measured.items()}


def rows(
    model: Model, scratch: Path, layers: Sequence[int] | None, threads: int | None
) -> list[tuple[str, float, float, float]]:
    """Names, divergences, and the costs by gradients and by a part of the weights."""
    reference, path = scratch / "reference.gguf", scratch / "one.gguf"
    convert(model.checkpoint, reference, "BF16", force=True)
    exact, rough = predicted(model, gradients=True), predicted(model, gradients=False)
    measured = []
    for name in exact:
        words = name.split(".")
        if layers is not None and words[0] == "blk" and int(words[1]) not in layers:
            continue
        mixture = adapted(QUANTIZATIONS["BF16"], overrides=[f"^{re.escape(name)}$={KIND.name}"])
        convert(model.checkpoint, path, mixture, force=True)
        (one,) = compare([path], reference, model.text, threads=threads)
        measured.append((name, one.prediction.divergence, exact[name], rough[name]))
        print(f"{name}: {one.prediction.divergence:.2e}", flush=True)
    return measured


def table(measured: Sequence[tuple[str, float, float, float]]) -> str:
    divergences, *both = np.array([row[1:] for row in measured]).T
    ratios = []
    for cost in both:
        ratio = divergences / np.maximum(cost, 1e-30)
        ratios.append(ratio / np.exp(np.log(ratio).mean()))
    lines = ["| matrix | KL | KL / cost | by a part of the weights |", "|---|--:|--:|--:|"]
    for (name, divergence, *_), exact, rough in zip(measured, *ratios, strict=True):
        lines.append(f"| {name} | {divergence:.2e} | {exact:.2f} | {rough:.2f} |")
    spread = ", ".join(f"{np.exp(np.log(ratio).std()):.2f}" for ratio in ratios)
    return "\n".join([*lines, "", f"Off by a factor of {spread} (one standard deviation)."])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", choices=MODELS)
    parser.add_argument("--layers", type=int, nargs="*")
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # leaving no folder
    for name in [arguments.only] if arguments.only else MODELS:
        with tempfile.TemporaryDirectory(prefix="llamacli-bench-") as folder:
            model = MODELS[name](Path(folder))
            measured = rows(model, Path(folder), arguments.layers, arguments.threads)
            print(f"\n{model.title}:\n\n{table(measured)}\n")


if __name__ == "__main__":
    main()
