"""Logits through llama.cpp agree with transformers', before and far beyond the first context."""

from pathlib import Path

import gguf
import llama_cpp
import numpy as np
import pytest

from convert import convert
from tests.parity.record import LENGTH, POSITIONS, RECORDED, parity_tokens, write_parity_checkpoint

TOLERANCE = 2e-2


def llama_cpp_logits(path: Path) -> np.ndarray:
    """float32 logits of shape (len(POSITIONS), vocabulary) by llama.cpp on the CPU."""
    model = llama_cpp.Llama(
        str(path), n_ctx=LENGTH, n_batch=LENGTH, logits_all=True, verbose=False, n_gpu_layers=0
    )
    model.eval(parity_tokens().tolist())
    return np.array(model.scores)[POSITIONS]


def without_rope_factors(source: Path, target: Path) -> None:
    """The same file, its rope_freqs.weight set to ones, as if the scaling had been dropped."""
    data = bytearray(source.read_bytes())
    factors = next(t for t in gguf.GGUFReader(source).tensors if t.name == "rope_freqs.weight")
    ones = np.ones(factors.n_elements, np.float32).tobytes()
    data[factors.data_offset : factors.data_offset + len(ones)] = ones
    target.write_bytes(data)


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("logits")
    write_parity_checkpoint(folder / "checkpoint")
    convert(folder / "checkpoint", folder / "bf16.gguf", "BF16")
    return folder / "bf16.gguf"


def test_logits_agree_with_transformers(converted: Path) -> None:
    expected = np.load(RECORDED)["logits"]
    assert expected.std() > 0.5  # far from the flat logits that agree with anything
    assert np.abs(llama_cpp_logits(converted) - expected).max() < TOLERANCE


def test_without_rope_factors_they_disagree(converted: Path, tmp_path: Path) -> None:
    without_rope_factors(converted, tmp_path / "dropped.gguf")
    expected = np.load(RECORDED)["logits"]
    error = np.abs(llama_cpp_logits(tmp_path / "dropped.gguf") - expected).max(axis=1)
    assert error[POSITIONS >= 64].min() > TOLERANCE
