"""Record what PEFT computes for a small random base with a LoRA adapter.

    python -m tests.parity.record_adapter

writes adapter.npz beside this file: logits of several kinds of adapters, and what llama.cpp's
convert_lora_to_gguf.py makes of the first. Needs PyTorch and PEFT (`make test-parity` installs
them); the tests that read the file don't.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from tests.standins.adapter import LINEAR, write_adapter
from tests.standins.checkpoint import shape_config, write_checkpoint

RECORDED = Path(__file__).with_name("adapter.npz")
SMALL = {"hidden_size": 64, "intermediate_size": 96, "head_dim": 16, "vocab_size": 600}
LENGTH = 24
PLAIN = "plain"


def base_config() -> dict[str, Any]:
    return shape_config("tiny", **SMALL, max_position_embeddings=1024, initializer_range=0.2)


def write_base(folder: Path) -> None:
    write_checkpoint(folder, base_config(), dtype="F32", seed=3)


def tokens() -> np.ndarray:
    """int64 token ids of shape (LENGTH,), seeded."""
    return np.random.default_rng(3).integers(0, 256, LENGTH)


KINDS: Mapping[str, Mapping[str, Any]] = {
    PLAIN: {},
    "rslora": {"use_rslora": True},
    "patterns": {
        "ranks": {"v_proj": 2, "0.mlp.up_proj": 8},
        "rank_pattern": {"v_proj": 2, r"layers\.0\.mlp\.up_proj": 8},
        "alpha_pattern": {"q_proj": 3, "model.layers.1.mlp.down_proj": 16},
        "use_rslora": True,
    },
    "fan in": {"fan_in_fan_out": True},
    "vocabulary": {"targets": [*LINEAR, "embed_tokens", "lm_head"]},
}


def write_kind(folder: Path, name: str) -> Path:
    """The adapter of that kind in a folder."""
    return write_adapter(folder, base_config(), seed=len(name), **KINDS[name])


def peft_logits(base: Path, adapter: Path) -> np.ndarray:
    """float32 logits of shape (LENGTH, vocabulary), computed in float32 by PEFT, unmerged."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = PeftModel.from_pretrained(model, adapter).eval()
    with torch.no_grad():
        return model(torch.from_numpy(tokens())[None]).logits[0].numpy()


def their_tensors(
    converter: Path, base: Path, adapter: Path, target: Path
) -> dict[str, np.ndarray]:
    """The tensors of convert_lora_to_gguf.py, which lies beside convert_hf_to_gguf.py."""

    script = converter.with_name("convert_lora_to_gguf.py")
    command = [sys.executable, str(script), str(adapter), "--base", str(base)]
    quiet = {**os.environ, "PYTHONPATH": str(converter.parent / "gguf-py")}
    subprocess.run([*command, "--outfile", str(target)], check=True, env=quiet, capture_output=True)
    return {tensor.name: np.array(tensor.data) for tensor in gguf.GGUFReader(target).tensors}


def main() -> None:
    from tests.parity.test_converter import unpacked

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_base(folder / "base")
        recorded: dict[str, np.ndarray] = {}
        for name in KINDS:
            recorded[name] = peft_logits(folder / "base", write_kind(folder / name, name))
        theirs = their_tensors(unpacked(), folder / "base", folder / PLAIN, folder / "t.gguf")
        np.savez_compressed(
            RECORDED,
            **{f"logits {name}": values.astype(np.float16) for name, values in recorded.items()},
            **{f"sums {name}": sums(values) for name, values in theirs.items()},
        )


def sums(values: np.ndarray) -> np.ndarray:
    """Row by row, weighted by the columns' numbers: another order gives others. float64 of rows."""
    return values.astype(np.float64) @ np.arange(1, values.shape[-1] + 1)


if __name__ == "__main__":
    main()
