"""What the tests share. The real Llama 3 files lie beside the repository where they are at hand."""

import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest

from convert import convert
from tests.standins.checkpoint import shape_config, write_checkpoint
from tests.standins.hollow import without_weights, write_hollow
from tests.standins.tiny import write_model

# A shell has its background jobs ignore Ctrl-C, and so would the programs that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

DEMO = Path(__file__).resolve().parents[1] / "llamacli" / "demo"
SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def llama3_files() -> Path:
    """The folder with the real tokenizer and configs of Llama 3; the test skips without it."""
    if not (SHARED / "llama3").is_dir():
        pytest.skip(f"the real Llama 3 files are not in {SHARED / 'llama3'}")
    return SHARED / "llama3"


@pytest.fixture(scope="session")
def real_models(llama3_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Meta's three models, by name: folders with their small files, and hollow .gguf files."""
    place = tmp_path_factory.mktemp("real")
    for source in sorted(llama3_files.glob("Meta-*")):
        folder = place / source.name
        shutil.copytree(source, folder)
        shutil.copy(llama3_files / "tokenizer.json", folder)
        write_hollow(without_weights(folder), place / f"{source.name}.gguf")
    return place


@pytest.fixture
def checkpoint(tmp_path: Path) -> Callable[..., Path]:
    """Make a checkpoint of the tiny shape: checkpoint(dtype=…, shards=…, **config changes)."""

    def make(*, dtype: str = "BF16", shards: int = 1, **changes: Any) -> Path:
        folder = tmp_path / "checkpoint"
        write_checkpoint(folder, shape_config("tiny", **changes), dtype=dtype, shards=shards)
        return folder

    return make


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model store of its own for every test, and no models.toml of the user's."""
    folder = tmp_path / "store"
    monkeypatch.setenv("LLAMACLI_HOME", str(folder))
    monkeypatch.setenv("LLAMACLI_CONFIG", str(tmp_path / "config"))
    return folder


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's file, converted once for all tests."""
    path = tmp_path_factory.mktemp("demo") / "demo.gguf"
    convert(DEMO, path, "Q8_0")
    return path


@pytest.fixture(scope="session")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that babbles until its context of 131,072 tokens is full."""

    def change(writer: gguf.GGUFWriter) -> None:
        writer.kv_data[0].pop("llama.context_length", None)
        writer.add_context_length(131_072)
        texts = writer.kv_data[0]["tokenizer.ggml.tokens"].value
        control = [i for i, text in enumerate(texts) if text.startswith("<|")]
        writer.tensors[0]["output.weight"].tensor[control] = 0  # never the likeliest

    return write_model(tmp_path_factory.mktemp("endless") / "endless.gguf", change=change)
