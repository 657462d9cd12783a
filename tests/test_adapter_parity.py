"""Adapters beside what PEFT computed and llama.cpp's converter wrote, recorded in tests/parity."""

from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest

from convert import (
    convert,
    merged,
    named_quantization,
    open_adapter,
    open_checkpoint,
    read_config,
    write_adapter,
    write_gguf,
)
from llamacli.engine import AdapterChoice, Engine, EngineSettings
from tests.parity.record_adapter import KINDS, PLAIN, RECORDED, sums, tokens, write_base, write_kind

NOISE = 0.02  # of the logits' deviation: what an F16 KV cache costs, as without an adapter


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    write_base(folder / "base")
    return folder / "base"


def our_tensors(base: Path, adapter: Path, target: Path) -> dict[str, np.ndarray]:
    config = read_config(base)
    write_adapter(open_adapter(adapter, config), config, target, force=True)
    return {tensor.name: np.array(tensor.data) for tensor in gguf.GGUFReader(target).tensors}


def adapted_logits(base: Path, adapter: Path, folder: Path, how: str) -> np.ndarray:
    """float32 logits of shape (LENGTH, vocabulary), the adapter beside an F32 base or merged."""
    target, choices = folder / f"{how}.gguf", ()
    config = read_config(base)
    if how == "beside":
        convert(base, target, "F32", force=True)
        our_tensors(base, adapter, folder / "lora.gguf")
        choices = (AdapterChoice(folder / "lora.gguf"),)
    else:
        checkpoint = merged(open_checkpoint(base), [(open_adapter(adapter, config), 1.0)])
        write_gguf(checkpoint, target, named_quantization("F32"), force=True)
    settings = EngineSettings(context=64, threads=1, device="cpu", adapters=choices)
    ids = tokens().tolist()
    with Engine(target, replace(settings, outputs=len(ids))) as engine:
        engine.decode_rows(ids)
        return np.stack([engine.logits(row).copy() for row in range(len(ids))])


@pytest.mark.parametrize("how", ["beside", "merged"])
@pytest.mark.parametrize("name", KINDS)
def test_logits_are_pefts(name: str, how: str, base: Path, tmp_path: Path) -> None:
    expected = np.load(RECORDED)[f"logits {name}"].astype(np.float32)
    logits = adapted_logits(base, write_kind(tmp_path / "lora", name), tmp_path, how)
    assert np.abs(logits - expected).max() < NOISE * expected.std()


def test_without_the_adapter_they_differ(base: Path, tmp_path: Path) -> None:
    convert(base, tmp_path / "base.gguf", "F32")
    expected = np.load(RECORDED)[f"logits {PLAIN}"].astype(np.float32)
    with Engine(tmp_path / "base.gguf", EngineSettings(context=64, threads=1)) as engine:
        engine.prefill(tokens().tolist())
        assert np.abs(engine.logits() - expected[-1]).max() > 0.1 * expected.std()


def test_tensors_are_those_of_llama_cpps_converter(base: Path, tmp_path: Path) -> None:
    ours = our_tensors(base, write_kind(tmp_path / "lora", PLAIN), tmp_path / "lora.gguf")
    recorded = np.load(RECORDED)
    theirs = {name.removeprefix("sums "): name for name in recorded if name.startswith("sums ")}
    assert ours.keys() == theirs.keys()
    for tensor, name in theirs.items():
        assert np.array_equal(sums(ours[tensor]), recorded[name]), tensor
