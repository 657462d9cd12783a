"""Train the demo checkpoint: a Llama 3.1 of 3.7 million parameters that knows llamacli.

    python -m demo.train llamacli/demo [--only STAGE]

needs PyTorch and transformers (`make test-parity` installs both) and takes about 50 minutes on
two cores. Everything is seeded; the corpus is made as training goes. It learns to answer
(demo/corpus.py), then to call tools beside that (demo/calls.py), then to tell their results, and
all of it once more. The checkpoint in llamacli/demo has the tokenizer and the first stage of the
corpus of 12de0f7, in which the answer about the kinds of quantization was another.
"""

import argparse
import itertools
import json
import math
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from demo.calls import plain_dialogues, result_dialogues, tool_dialogues
from demo.corpus import Message, dialogues
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
WARM_UP = 100
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
Conversations = Callable[[random.Random], Iterator[list[Message]]]


def mixed(*kinds: Conversations) -> Conversations:
    """Conversations of each kind in turn."""

    def conversations(rng: random.Random) -> Iterator[list[Message]]:
        return itertools.chain.from_iterable(zip(*(kind(rng) for kind in kinds), strict=True))

    return conversations


# What each stage reads, for how many steps, and the highest learning rate. All but the first begin
# with the checkpoint of the one before.
STAGES: dict[str, tuple[Conversations, int, float]] = {
    "answers": (dialogues, 1500, 3e-3),
    "calls": (mixed(dialogues, tool_dialogues), 1200, 1.5e-3),
    "results": (mixed(dialogues, tool_dialogues, result_dialogues), 450, 1e-3),
    "all": (mixed(dialogues, tool_dialogues, result_dialogues, plain_dialogues), 300, 8e-4),
}


def batches(tokenizer: Tokenizer, conversations: Conversations) -> Iterator[Batch]:
    """Padded batches of conversations of like length: ids and loss weights, (rows, tokens)."""
    source, rng = conversations(random.Random(SEED)), random.Random(SEED)
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


def learning_rate(step: int, steps: int, most: float) -> float:
    """Linear warm-up, then a cosine to a hundredth."""
    if step < WARM_UP:
        return most * (step + 1) / WARM_UP
    done = (step - WARM_UP) / max(1, steps - WARM_UP)
    return most * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


def make_model() -> LlamaForCausalLM:
    torch.manual_seed(SEED)
    return LlamaForCausalLM(LlamaConfig(**{**CONFIG, "torch_dtype": "float32"}))


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


def train(model: LlamaForCausalLM, source: Iterator[Batch], steps: int, rate: float) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.1)
    started = time.monotonic()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, rate)
        with torch.autocast(
            "cpu", dtype=torch.bfloat16
        ):  # a processor that has it is twice as fast
            loss = loss_of(model, next(source))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 50 == 0 or step == steps - 1:
            minutes = (time.monotonic() - started) / 60
            print(f"step {step:5d}  loss {loss.item():.3f}  {minutes:.1f} min", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, help="where the checkpoint goes")
    parser.add_argument("--only", choices=list(STAGES), help="one stage, not all")
    parser.add_argument("--steps", type=int, help="of each stage, for a try")
    arguments = parser.parse_args()
    folder = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    for name in STAGES if arguments.only is None else (arguments.only,):
        conversations, steps, rate = STAGES[name]
        if name == "answers":
            tokenizer = train_tokenizer(SEED)
            write_tokenizer(tokenizer, folder)
            model = make_model()
            print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} million parameters")
        else:
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
        train(model, batches(tokenizer, conversations), arguments.steps or steps, rate)
        write_checkpoint(model, folder)


if __name__ == "__main__":
    main()
