"""Train the demo checkpoint: a Llama 3.1 of 3.7 million parameters that knows llamacli.

    python -m demo.train llamacli/demo

needs PyTorch and transformers (`make test-parity` installs both) and takes about 25 minutes on
two cores. Everything is seeded; the corpus is made by demo/corpus.py as training goes.
"""

import argparse
import json
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from demo.corpus import dialogues
from demo.tokenization import (
    BOS,
    END_OF_TEXT,
    EOM,
    EOT,
    VOCABULARY,
    encode,
    train_tokenizer,
    write_tokenizer,
)  # fmt: skip

SEED = 20
STEPS = 1500
WARM_UP = 100
RATE = 3e-3
BATCH_TOKENS = 4096  # with padding
LONGEST = 2048

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": BOS,
    "eos_token_id": [END_OF_TEXT, EOM, EOT],
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 256,
    "initializer_range": 0.02,
    "intermediate_size": 768,
    "max_position_embeddings": LONGEST,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 4,
    "num_hidden_layers": 4,
    "num_key_value_heads": 2,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 8.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 256,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.45.2",
    "use_cache": True,
    "vocab_size": VOCABULARY,
}
GENERATION = {
    "bos_token_id": BOS,
    "do_sample": True,
    "eos_token_id": [END_OF_TEXT, EOM, EOT],
    "temperature": 0.3,
    "top_p": 0.9,
}

Batch = tuple[torch.Tensor, torch.Tensor]


def batches(tokenizer: Tokenizer, seed: int) -> Iterator[Batch]:
    """Padded batches of conversations of like length: ids and loss weights, (rows, tokens)."""
    source, rng = dialogues(random.Random(seed)), random.Random(seed)
    while True:
        pool = [encode(tokenizer, next(source)) for _ in range(400)]
        pool = sorted((ids[:LONGEST], weights[:LONGEST]) for ids, weights in pool)
        pool.sort(key=lambda pair: len(pair[0]))
        groups: list[list[tuple[list[int], list[float]]]] = [[]]
        for pair in pool:
            if groups[-1] and (len(groups[-1]) + 1) * len(pair[0]) > BATCH_TOKENS:
                groups.append([])
            groups[-1].append(pair)
        rng.shuffle(groups)
        for group in groups:
            longest = max(len(ids) for ids, _ in group)
            ids = torch.full((len(group), longest), END_OF_TEXT)
            weights = torch.zeros((len(group), longest))
            for row, (row_ids, row_weights) in enumerate(group):
                ids[row, : len(row_ids)] = torch.tensor(row_ids)
                weights[row, : len(row_ids)] = torch.tensor(row_weights)
            yield ids, weights


def loss_of(model: LlamaForCausalLM, batch: Batch) -> torch.Tensor:
    """Weighted mean cross entropy of the next token, in nats."""
    ids, weights = batch
    logits = model(ids[:, :-1]).logits
    losses = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
    )
    flat = weights[:, 1:].flatten()
    return (losses * flat).sum() / flat.sum()


def learning_rate(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine to a hundredth."""
    if step < WARM_UP:
        return RATE * (step + 1) / WARM_UP
    done = (step - WARM_UP) / max(1, steps - WARM_UP)
    return RATE * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


def make_model() -> LlamaForCausalLM:
    torch.manual_seed(SEED)
    model = LlamaForCausalLM(LlamaConfig(**{**CONFIG, "torch_dtype": "float32"}))
    return model.float()


def write_checkpoint(model: LlamaForCausalLM, folder: Path) -> None:
    """config.json, generation_config.json and the weights in BF16, in Hugging Face's layout."""
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    (folder / "generation_config.json").write_text(json.dumps(GENERATION, indent=2) + "\n")
    weights = {
        name: tensor.detach().to(torch.bfloat16).contiguous()
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight"  # tied to the embedding
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, help="where the checkpoint goes")
    parser.add_argument("--steps", type=int, default=STEPS)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(SEED)
    write_tokenizer(tokenizer, arguments.folder)
    model = make_model()
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} million parameters")
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.1)
    started = time.monotonic()
    source = batches(tokenizer, SEED)
    for step in range(arguments.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, arguments.steps)
        loss = loss_of(model, next(source))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 50 == 0 or step == arguments.steps - 1:
            minutes = (time.monotonic() - started) / 60
            print(f"step {step:5d}  loss {loss.item():.3f}  {minutes:.1f} min", flush=True)
    write_checkpoint(model, arguments.folder)


if __name__ == "__main__":
    main()
