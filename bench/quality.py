"""What each quantization costs trained models, and what a mixture made for the same size does.

    python -m bench.quality [--only demo|smollm2] [--again all|fit] [--threads N] [--plot FILE.png]

Two models: the built-in demo, on conversations that it was never trained on, and SmolLM2-135M, on
a part of the text that ships beyond what its matrix is measured on. Each named mixture is held
against the unquantized file, without an importance matrix and with one, and so is what
`convert --fit` makes for the same size. What is measured is kept in docs/quantization.json as it
comes, so that a call which was cut short can be gone on with, and docs/quantization.md is filled
from that. Nothing in it hangs on the machine's speed.

SmolLM2's weights are had from a Q4_1 file. They lie on its steps, which one quantizer would find
again and others not, so each is moved at random within its step first.
"""

import argparse
import json
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from bench.report import DOCS, with_figures
from convert import (
    QUANTIZATIONS,
    ImportanceError,
    ImportanceMatrix,
    convert,
    fit,
    open_checkpoint,
    write_gguf,
)
from demo.corpus import dialogues
from demo.held_out import conversations
from llamacli.prompt import Text
from llamacli.quality import Quality, compare, measure_importance, plot, sample_tokens
from tests.standins import smollm2

DATA, PAGE = DOCS / "quantization.json", DOCS / "quantization.md"
NAME = "quality"
MADE = "="  # before a type's name: a file made for the size that it takes
BEYOND = 120_000  # characters of the text that ships, of which a matrix takes the first 40,000
COMMON = (
    *("Q8_0", "Q6_K", "Q5_K_M", "Q5_0", "Q4_K_M", "Q4_K_S", "Q4_0", "IQ4_XS", "Q3_K_M", "IQ3_M"),
    *("Q2_K", "IQ2_M"),
)


@dataclass(frozen=True)
class Model:
    """A checkpoint, a text it is to predict, what a matrix is measured on, and mixtures to try.

    calibration None is the text that ships; chunks of 512 tokens of it are taken.
    """

    title: str
    checkpoint: Path
    text: str
    calibration: list[Text] | None
    chunks: int
    mixtures: tuple[str, ...]


def demo(scratch: Path) -> Model:  # noqa: ARG001
    return Model(
        "The built-in demo, 3.5 M parameters",
        Path(str(files("llamacli") / "demo")),
        joined(conversations(random.Random(1), 100_000), 6000),
        [Text("corpus", joined(dialogues(random.Random(5)), 8000))],
        20,
        tuple(name for name in QUANTIZATIONS if name not in ("F32", "BF16", "F16")),
    )


def smollm2_135m(scratch: Path) -> Model:
    checkpoint = scratch / "smollm2"
    moved(smollm2.folder(), checkpoint)
    text = files("llamacli").joinpath("quality", "calibration.txt").read_text(encoding="utf-8")
    return Model(
        "SmolLM2-135M-Instruct", checkpoint, text[BEYOND : BEYOND + 7000], None, 20, COMMON
    )


MODELS = {"demo": demo, "smollm2": smollm2_135m}


def joined(turns: Iterable[Iterable[dict[str, str]]], words: int) -> str:
    """Conversations as text, at least so many words of it."""
    parts: list[str] = []
    held = 0
    for conversation in turns:
        parts += [message["content"] for message in conversation]
        held = sum(len(part.split()) for part in parts)
        if held >= words:
            break
    return "\n\n".join(parts)


def moved(source: Path, target: Path) -> None:
    """A copy of the checkpoint, each weight moved at random by half a quantization step at most."""
    shutil.copytree(source, target)
    path = target / "model.safetensors"
    raw = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(raw[:8], "little")
    dice = np.random.default_rng(0)
    for name, tensor in json.loads(raw[8:start]).items():
        if len(tensor.get("shape", ())) != 2:
            continue
        first, last = tensor["data_offsets"]
        bits = np.frombuffer(raw, np.uint16, (last - first) // 2, start + first)
        values = (bits.astype(np.uint32) << 16).view(np.float32).reshape(-1, 32)
        if "embed" in name:  # Q8_0
            steps = np.abs(values).max(axis=1) / 127
        else:
            steps = (values.max(axis=1) - values.min(axis=1)) / 15
        values = values + (dice.random(values.shape, np.float32) - np.float32(0.5)) * steps[:, None]
        wide = values.view(np.uint32)
        bits[:] = ((wide + 0x7FFF + (wide >> 16 & 1)) >> 16).astype(np.uint16).reshape(-1)
    path.write_bytes(raw)


def measured(
    model: Model, scratch: Path, kept: Mapping[str, Any], threads: int | None = None
) -> Iterator[Quality]:
    """What isn't kept yet, as it comes: files called as their type, with + where a matrix was
    taken, and with =, beside the type of whose size they are, where they were made for it."""
    checkpoint = open_checkpoint(model.checkpoint)
    reference = scratch / "reference.gguf"
    convert(model.checkpoint, reference, "BF16", force=True)
    wanted = {
        f"{made}{name}{mark}": (name, made, mark)
        for mark in ("", "+")
        for name in model.mixtures
        for made in ("", MADE)
    }
    if all(name in kept for name in wanted):
        return
    tokens = sample_tokens(checkpoint)
    matrix = measure_importance(reference, model.calibration, chunks=model.chunks, threads=threads)
    for label, (name, made, mark) in wanted.items():
        importance: ImportanceMatrix | None = matrix if mark else None
        path = scratch / f"{label}.gguf"
        if label in kept:
            continue
        try:
            size = convert(model.checkpoint, path, name, importance=importance).target_nbytes
        except ImportanceError:
            continue
        if made:
            fitted = fit(checkpoint, size, name, importance=importance, tokens=tokens)
            write_gguf(checkpoint, path, fitted.quantization, force=True, importance=importance)
        yield from compare([path], reference, model.text, threads=threads)
        path.unlink()


def fields(one: Quality) -> dict[str, Any]:
    p = one.prediction
    return {
        "bytes": one.nbytes,
        "bits": one.bits,
        "perplexity": p.perplexity,
        "divergence": p.divergence,
        "divergence_99": p.divergence_99,
        "agreement": p.agreement,
    }


def figures(data: Mapping[str, Any]) -> str:
    """The tables of what is kept, as Markdown."""
    parts = []
    for kept in data.values():
        rows = [
            "| type | bits a weight | KL | `--fit` | KL, matrix | `--fit`, matrix | same first |",
            "|---|--:|--:|--:|--:|--:|--:|",
        ]
        known = kept["files"]
        for name in QUANTIZATIONS:
            labels = (name, f"{MADE}{name}", f"{name}+", f"{MADE}{name}+")
            if not any(label in known for label in labels):
                continue
            cells = [
                f"{known[label]['divergence']:.4f}" if label in known else "" for label in labels
            ]
            last = known.get(f"{name}+") or known[name]
            rows.append(
                f"| {name} | {last['bits']:.2f} | {' | '.join(cells)} | {last['agreement']:.1%} |"
            )
        parts += [f"{kept['title']}:\n\n" + "\n".join(rows), summary(known)]
    return "\n\n".join(parts)


def summary(known: Mapping[str, Any]) -> str:
    """What part of the named mixtures' divergence those made for their sizes have."""
    parts = []
    for mark, how in (("", "without a matrix"), ("+", "with one")):
        ratios = sorted(
            known[f"{MADE}{name}{mark}"]["divergence"] / known[f"{name}{mark}"]["divergence"]
            for name in QUANTIZATIONS
            if f"{MADE}{name}{mark}" in known and known[f"{name}{mark}"]["divergence"] > 0
        )
        if ratios:
            median, most = ratios[len(ratios) // 2], ratios[-1]
            parts.append(f"{median:.2f} in the median and {most:.2f} at most {how}")
    intro = "A file that was made for a named mixture's size has, of the divergence of that one"
    return f"{intro}, {'; '.join(parts)}." if parts else ""


def read() -> dict[str, Any]:
    """What is kept, of other models too, which another call may be measuring."""
    kept: dict[str, Any] = json.loads(DATA.read_text(encoding="utf-8")) if DATA.exists() else {}
    return kept


def write(data: Mapping[str, Any]) -> None:
    DATA.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    page = with_figures(PAGE.read_text(encoding="utf-8"), figures(data), NAME)
    PAGE.write_text(page, encoding="utf-8")


def again(label: str, which: str | None) -> bool:
    """Whether what is kept of a file is to be measured anew."""
    return which == "all" or (which == "fit" and label.startswith(MADE))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", choices=MODELS)
    parser.add_argument("--again", choices=("all", "fit"), help="measure what is kept anew")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--plot", type=Path, help="of the files measured by this call")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # leaving no folder
    measured_now: list[Quality] = []
    for name in [arguments.only] if arguments.only else MODELS:
        with tempfile.TemporaryDirectory(prefix="llamacli-bench-") as folder:
            model = MODELS[name](Path(folder))
            kept = dict(read().get(name, {}).get("files", {}))
            for label in [label for label in kept if again(label, arguments.again)]:
                del kept[label]
            for one in measured(model, Path(folder), dict(kept), arguments.threads):
                kept[one.path.stem] = fields(one)
                measured_now.append(one)
                print(f"{name} {one.path.stem}: {one.prediction.divergence:.4f}", flush=True)
                write(read() | {name: {"title": model.title, "files": kept}})
    if arguments.plot is not None and measured_now:
        arguments.plot.write_bytes(plot(measured_now))


if __name__ == "__main__":
    main()
