"""LoRA adapters, bent: llama.cpp's files, and PEFT's folders."""

import json
from functools import cache
from pathlib import Path
from random import Random

from convert import convert, open_adapter, read_config, write_adapter
from tests.fuzz import gguf_file
from tests.fuzz.mutate import bend_json, bend_safetensors
from tests.fuzz.stored import ANSWER, Command
from tests.standins import adapter as standin
from tests.standins.checkpoint import shape_config, write_checkpoint

SIZES = {"hidden_size": 64, "intermediate_size": 96, "head_dim": 16, "vocab_size": 600}
SAVED = {"model.norm.weight": (64,)}
PATTERNS = {"v_proj": 2}


def prepare(folder: Path) -> None:
    """A base, and adapters that fit it: one with every kind of pair, one that is merged alone."""
    config = shape_config("tiny", **SIZES)
    write_checkpoint(folder / "base", config)
    convert(folder / "base", folder / "base.gguf", "Q8_0")
    targets = [*standin.LINEAR, "embed_tokens", "lm_head"]
    pairs = standin.write_adapter(
        folder / "pairs", config, targets=targets, ranks=PATTERNS, rank_pattern=PATTERNS,
        alpha_pattern={r"layers\.\d\.mlp.*": 4}, use_rslora=True,
    )  # fmt: skip
    standin.write_adapter(folder / "saved", config, saved=SAVED)
    for name in ("pairs", "saved"):
        (folder / f"bent-{name}").mkdir()
        for path in (folder / name).iterdir():
            (folder / f"bent-{name}" / path.name).write_bytes(path.read_bytes())
    shape = read_config(folder / "base")
    write_adapter(open_adapter(pairs, shape), shape, folder / "good.gguf")


def bend_file(rng: Random, folder: Path) -> list[Command]:
    bad = folder / "bad.gguf"
    bad.write_bytes(gguf_file.mutant(rng, _parsed(folder / "good.gguf")))
    scale = rng.choice(("", ":0.5", ":-1", ":1e4"))
    model = ["-m", str(folder / "base.gguf"), "-c", "64"]
    return [["run", "hi", *model, *ANSWER, "--adapter", f"{bad}{scale}"]]


@cache
def _parsed(path: Path) -> gguf_file.File:
    return gguf_file.parse(path.read_bytes())


def bend_folder(rng: Random, folder: Path) -> list[Command]:
    name = rng.choice(("pairs", "saved"))
    good, bent = folder / name, folder / f"bent-{name}"
    config = (good / "adapter_config.json").read_bytes()
    weights = (good / "adapter_model.safetensors").read_bytes()
    if rng.random() < 0.5:
        config = bend_json(rng, json.loads(config), rng.choice((1, 1, 2, 4)))
    else:
        weights = bend_safetensors(rng, weights)
    (bent / "adapter_config.json").write_bytes(config)
    (bent / "adapter_model.safetensors").write_bytes(weights)
    target, base = str(folder / "out.gguf"), str(folder / "base")
    written = ["-o", target, "--force"]
    return [
        ["convert", str(bent), "--base", base, *written, "--quant", rng.choice(("F32", "F16"))],
        ["convert", base, "--merge", f"{bent}:0.5", *written, "--q8", "--threads", "1"],
    ]
