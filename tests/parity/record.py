"""Record what transformers computes for a small random checkpoint with llama3 rope scaling.

    python -m tests.parity.record

writes logits.npz beside this file. Needs PyTorch (`make test-parity` installs it); the tests that
read the file don't.
"""

from pathlib import Path
from typing import Any

import numpy as np

from tests.standins.checkpoint import shape_config, write_checkpoint

RECORDED = Path(__file__).with_name("logits.npz")
ORIGINAL_CONTEXT = 64
LENGTH = 1024
# Within the original context, at its edge, and far beyond it.
POSITIONS = np.array([0, 1, 17, 63, 64, 100, 255, 511, 777, 1023])


def parity_config() -> dict[str, Any]:
    """Weights large enough that attention is far from uniform, so that positions matter."""
    return shape_config(
        "tiny",
        vocab_size=768,
        num_hidden_layers=2,
        max_position_embeddings=2048,
        initializer_range=0.045,
        rope_theta=10000.0,
        rope_scaling={
            "factor": 8.0,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": ORIGINAL_CONTEXT,
            "rope_type": "llama3",
        },
    )


def parity_tokens() -> np.ndarray:
    """int64 token ids of shape (LENGTH,), seeded."""
    return np.random.default_rng(7).integers(0, 256, LENGTH)


def write_parity_checkpoint(folder: Path) -> None:
    write_checkpoint(folder, parity_config(), seed=7)


def transformers_logits(folder: Path) -> np.ndarray:
    """float32 logits of shape (len(POSITIONS), vocabulary), computed in float32 by transformers."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        logits = model(torch.from_numpy(parity_tokens())[None]).logits[0]
    return logits[torch.from_numpy(POSITIONS)].numpy()


def main() -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        write_parity_checkpoint(Path(folder))
        np.savez_compressed(RECORDED, logits=transformers_logits(Path(folder)).astype(np.float32))


if __name__ == "__main__":
    main()
