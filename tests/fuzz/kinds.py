"""The kinds of files that are bent, and the commands that read them."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from random import Random

from convert import convert
from convert.checkpoint import INDEX
from llamacli.prompt.encode import LLAMA3_TEMPLATE
from tests.fuzz import adapters, gguf_file, stored
from tests.fuzz.mutate import bend_json, bend_safetensors
from tests.fuzz.odd_model import write_odd_model
from tests.fuzz.stored import ANSWER, Command
from tests.standins.checkpoint import shape_config, write_checkpoint
from tests.standins.tiny import write_model


@dataclass(frozen=True)
class Kind:
    """prepare makes sound files in a folder; bend makes one bad there and gives the commands."""

    prepare: Callable[[Path], None]
    bend: Callable[[Random, Path], list[Command]]


# GGUF


def _prepare_gguf(folder: Path) -> None:
    write_model(folder / "good-0.gguf")
    _write_checkpoint(folder, 1)
    convert(folder / "checkpoint", folder / "good-1.gguf", "Q4_K_M")


def _bend_gguf(rng: Random, folder: Path) -> list[Command]:
    bad = folder / "bad.gguf"
    bad.write_bytes(gguf_file.mutant(rng, _parsed(folder / f"good-{rng.randrange(2)}.gguf")))
    return _read_model(rng, bad)


@cache
def _parsed(path: Path) -> gguf_file.File:
    return gguf_file.parse(path.read_bytes())


def _bend_odd(rng: Random, folder: Path) -> list[Command]:
    write_odd_model(rng, folder / "bad.gguf")
    return _read_model(rng, folder / "bad.gguf")


def _read_model(rng: Random, path: Path) -> list[Command]:
    flags = rng.choice(([], ["-c", "64"], ["--raw"], ["-s", "a system prompt", "-c", "64"]))
    looks = (
        *(["--config"], ["--structure"], ["--metadata"], ["--tensors"], ["--template"]),
        *(["--rope"], [], ["--json"], ["--metadata", "--json"], ["--rope", "--json"]),
    )
    return [
        ["run", "hi", "-m", str(path), *ANSWER, *flags],
        ["show", str(path), *rng.choice(looks)],
        ["tokens", str(path), "some words"],
    ]


# Checkpoints


def _write_checkpoint(folder: Path, shards: int) -> None:
    sizes = {"hidden_size": 64, "intermediate_size": 96, "head_dim": 16, "vocab_size": 600}
    write_checkpoint(folder / "checkpoint", shape_config("tiny", **sizes), shards=shards)
    path = folder / "checkpoint" / "tokenizer_config.json"
    config = json.loads(path.read_text()) | {"chat_template": LLAMA3_TEMPLATE}
    path.write_text(json.dumps(config))  # a known template: others cost a process each


def _prepare_checkpoint(folder: Path, shards: int = 1) -> None:
    _write_checkpoint(folder, shards)
    for path in (folder / "checkpoint").iterdir():
        (folder / f"good-{path.name}").write_bytes(path.read_bytes())


def _bend_small(name: str) -> Callable[[Random, Path], list[Command]]:
    def bend(rng: Random, folder: Path) -> list[Command]:
        good = json.loads((folder / f"good-{name}").read_bytes())
        bad = bend_json(rng, good, rng.choice((1, 1, 1, 2, 4)))
        (folder / "checkpoint" / name).write_bytes(bad)
        return _convert(rng, folder)

    return bend


CARD = {
    "license": "llama3.1",
    "language": ["en", "de"],
    "base_model": "meta-llama/Llama-3.1-8B",
    "tags": ["llama", "test"],
    "model_name": "A Name",
    "datasets": ["https://huggingface.co/datasets/some/set"],
    "extra_gated_fields": {"Name": "text"},
}
BOMB = "a: &a {x: 1}\n" + "".join(
    f"{b}: &{b} {{<<: [{', '.join([f'*{a}'] * 9)}]}}\n"
    for a, b in zip("abcdefghij", "bcdefghijk", strict=True)
)
YAML = (BOMB, "a: &a [*a]", "!!python/object/apply:os.system [id]", "a: " + "[" * 3000, "? ?", "")


def _bend_card(rng: Random, folder: Path) -> list[Command]:
    """JSON is YAML, so the same mutants do."""
    front = bend_json(rng, CARD, rng.choice((1, 1, 2, 4)))
    if rng.random() < 0.2:
        front = rng.choice(YAML).encode()
    card = b"---\n" + front + rng.choice((b"\n---\n", b"\n---\n# Title\n", b"", b"\n--\n"))
    (folder / "checkpoint" / "README.md").write_bytes(card)
    return _convert(rng, folder)


def _bend_safetensors(rng: Random, folder: Path) -> list[Command]:
    good = (folder / "good-model.safetensors").read_bytes()
    (folder / "checkpoint" / "model.safetensors").write_bytes(bend_safetensors(rng, good))
    return _convert(rng, folder)


def _convert(rng: Random, folder: Path) -> list[Command]:
    target, source = str(folder / "out.gguf"), str(folder / "checkpoint")
    quant = rng.choice(("Q8_0", "Q8_0", "Q4_K_M", "F32", "BF16", "F16"))
    converted = ["convert", source, "-o", target, "--force", "--threads", "1", "--quant", quant]
    looks = (["--config"], ["--structure"], ["--metadata"], ["--tensors"], ["--rope"], [])
    return [
        converted,
        ["run", "hi", "-m", target, *ANSWER, "-c", "64"],
        ["show", source, *rng.choice(looks)],
    ]


KINDS = {
    "gguf": Kind(_prepare_gguf, _bend_gguf),
    "odd-model": Kind(lambda folder: None, _bend_odd),
    "safetensors": Kind(_prepare_checkpoint, _bend_safetensors),
    "index": Kind(partial(_prepare_checkpoint, shards=3), _bend_small(INDEX)),
    "config": Kind(_prepare_checkpoint, _bend_small("config.json")),
    "tokenizer": Kind(_prepare_checkpoint, _bend_small("tokenizer.json")),
    "tokenizer-config": Kind(_prepare_checkpoint, _bend_small("tokenizer_config.json")),
    "generation-config": Kind(_prepare_checkpoint, _bend_small("generation_config.json")),
    "card": Kind(_prepare_checkpoint, _bend_card),
    "adapter": Kind(adapters.prepare, adapters.bend_file),
    "adapter-folder": Kind(adapters.prepare, adapters.bend_folder),
    "cache": Kind(stored.prepare, stored.bend_cache),
    "session": Kind(stored.prepare, stored.bend_session),
    "tuned": Kind(stored.prepare, stored.bend_tuned),
    "models-toml": Kind(stored.prepare, stored.bend_models),
}
