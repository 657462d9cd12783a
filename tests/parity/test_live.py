"""The same comparison with transformers running now; `make test-parity` installs PyTorch for it."""

from pathlib import Path

import numpy as np
import pytest

from convert import convert
from tests.parity.record import RECORDED, transformers_logits, write_parity_checkpoint
from tests.test_logits import TOLERANCE, llama_cpp_logits, without_rope_factors

pytest.importorskip("torch", reason="PyTorch is not installed; `make test-parity` does that")


def test_live_logits_agree(tmp_path: Path) -> None:
    write_parity_checkpoint(tmp_path / "checkpoint")
    live = transformers_logits(tmp_path / "checkpoint")
    assert np.abs(live - np.load(RECORDED)["logits"]).max() < 1e-3

    convert(tmp_path / "checkpoint", tmp_path / "bf16.gguf", "BF16")
    assert np.abs(llama_cpp_logits(tmp_path / "bf16.gguf") - live).max() < TOLERANCE

    without_rope_factors(tmp_path / "bf16.gguf", tmp_path / "dropped.gguf")
    assert np.abs(llama_cpp_logits(tmp_path / "dropped.gguf") - live).max() > TOLERANCE
