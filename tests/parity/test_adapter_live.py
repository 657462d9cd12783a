"""Adapters beside PEFT and llama.cpp's own converter; `make test-parity` installs what it takes."""

from pathlib import Path

import numpy as np
import pytest

from convert import open_adapter, read_config, write_adapter
from tests.parity.record_adapter import (
    KINDS,
    PLAIN,
    RECORDED,
    peft_logits,
    their_tensors,
    write_base,
    write_kind,
)
from tests.parity.test_converter import unpacked
from tests.test_adapter_parity import NOISE, adapted_logits, our_tensors

pytest.importorskip("peft", reason="PEFT is not installed; `make test-parity` does that")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    write_base(folder / "base")
    return folder / "base"


@pytest.mark.parametrize("name", KINDS)
def test_live_logits_are_pefts(name: str, base: Path, tmp_path: Path) -> None:
    adapter = write_kind(tmp_path / "lora", name)
    live = peft_logits(base, adapter)
    assert np.abs(live - np.load(RECORDED)[f"logits {name}"]).max() < 1e-2
    for how in ("beside", "merged"):
        error = np.abs(adapted_logits(base, adapter, tmp_path, how) - live).max()
        assert error < NOISE * live.std()


@pytest.mark.parametrize("name", [PLAIN, "vocabulary"])
def test_tensors_are_those_of_llama_cpps_converter(name: str, base: Path, tmp_path: Path) -> None:
    adapter = write_kind(tmp_path / "lora", name)
    theirs = their_tensors(unpacked(), base, adapter, tmp_path / "theirs.gguf")
    ours = our_tensors(base, adapter, tmp_path / "ours.gguf")
    assert ours.keys() == theirs.keys()
    for tensor, values in theirs.items():
        assert np.array_equal(ours[tensor], values), tensor


def test_their_scale_leaves_rslora_out(base: Path, tmp_path: Path) -> None:
    """Why ours differs from theirs where a scale isn't alpha / rank: PEFT's is what counts."""
    adapter = write_kind(tmp_path / "lora", "rslora")
    config = read_config(base)
    report = write_adapter(open_adapter(adapter, config), config, tmp_path / "a.gguf")
    theirs = their_tensors(unpacked(), base, adapter, tmp_path / "theirs.gguf")
    ours = our_tensors(base, adapter, tmp_path / "ours.gguf")
    assert report.alpha == 16.0
    assert all(np.array_equal(ours[name], values) for name, values in theirs.items())
