"""Record what transformers computes for the trained checkpoint, SmolLM2-135M-Instruct.

    python -m tests.parity.record_smollm2

writes smollm2.npz beside this file: of some places of a prompt the likeliest tokens and their
logits. Needs PyTorch (`make test-parity` installs it); the tests that read the file don't.
"""

from pathlib import Path

import numpy as np

from tests.standins import smollm2

RECORDED = Path(__file__).with_name("smollm2.npz")
PROMPT = (
    "<|im_start|>system\nYou answer in one short sentence.<|im_end|>\n<|im_start|>user\n"
    "Which city is the capital of Italy, and in which year did 2 + 2 = 4 become true?<|im_end|>\n"
    "<|im_start|>assistant\n"
)
POSITIONS = (5, 20, -1)
LIKELIEST = 512


def main() -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = smollm2.folder()
    ids = AutoTokenizer.from_pretrained(folder)(PROMPT)["input_ids"]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0][list(POSITIONS)].numpy()
    tokens = np.argsort(-logits, axis=1)[:, :LIKELIEST]
    values = np.take_along_axis(logits, tokens, axis=1).astype(np.float32)
    np.savez_compressed(RECORDED, ids=ids, tokens=tokens.astype(np.int32), logits=values)


if __name__ == "__main__":
    main()
