"""LoRA adapters merged into a checkpoint: what its tensors are then, before a weight is read."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from convert.adapter import VOCABULARY, WEIGHTS, Adapter
from convert.added import check_templates
from convert.checkpoint import Checkpoint
from convert.config import LlamaConfig
from convert.errors import CheckpointError
from convert.lora import Pair
from convert.safetensors import StoredTensor
from convert.small_files import optional_json, read_chat_templates, read_json
from convert.tensors import llama_tensors
from convert.tokenizer import parse_tokenizer

EMBEDDING, OUTPUT = VOCABULARY

Scaled = tuple[Adapter, float]  # an adapter, and what its pairs are times beside their own scale


def merged_config(config: LlamaConfig, adapters: Iterable[Adapter]) -> LlamaConfig:
    """The base's config as the adapters leave it: a vocabulary resized, an output untied.

    PEFT adds a pair of a tied embedding, or of its output, to that one alone.
    """
    for adapter in adapters:
        saved = adapter.saved
        if EMBEDDING in saved and OUTPUT not in saved and config.tie_word_embeddings:
            raise CheckpointError(
                "it has an embed_tokens of its own and no lm_head, but the base has both as one: "
                "which is meant isn't said",
                file=WEIGHTS,
            )
        if OUTPUT in saved or not adapter.pairs.keys().isdisjoint(VOCABULARY):
            config = replace(config, tie_word_embeddings=False)
        if rows := {saved[source].shape[0] for source in VOCABULARY if source in saved}:
            config = replace(config, vocab_size=rows.pop())
    return config


def merged(checkpoint: Checkpoint, adapters: Sequence[Scaled]) -> Checkpoint:
    """The checkpoint with W + scale · B·A in place of each W that has a pair.

    The sums are made in float32 while the pieces are converted. Raises CheckpointError, for two
    adapters too that have a tensor of their own for the same place.
    """
    config = merged_config(checkpoint.config, (adapter for adapter, _ in adapters))
    stored: dict[str, StoredTensor] = {s.source: t for s, t in checkpoint.weights.items()}
    stored.setdefault(OUTPUT, stored[EMBEDDING])  # where they are one
    pairs: dict[str, tuple[Pair, ...]] = {}
    taken: set[str] = set()
    for adapter, scale in adapters:
        for source, tensor in adapter.saved.items():
            if source in taken:
                raise CheckpointError(f"{source} is in two of the adapters", file=adapter.name)
            taken.add(source)
            stored[source] = tensor
        for source, pair in adapter.pairs.items():
            pairs[source] = (*pairs.get(source, ()), replace(pair, scale=pair.scale * scale))
    if config.vocab_size != checkpoint.config.vocab_size:
        checkpoint = _with_tokenizer(checkpoint, config, adapters)
    identities = [f"{adapter.identity} times {scale!r}" for adapter, scale in adapters]
    return replace(
        checkpoint,
        config=config,
        weights={spec: stored[spec.source] for spec in llama_tensors(config)},
        pairs=pairs,
        merged=tuple(f"{adapter.name}:{scale:g}" for adapter, scale in adapters),
        merged_identity="\n".join(identities),
    )


def _with_tokenizer(
    checkpoint: Checkpoint, config: LlamaConfig, adapters: Sequence[Scaled]
) -> Checkpoint:
    """With the tokenizer of the adapter that resized the vocabulary."""
    folder = next(adapter.folder for adapter, _ in reversed(adapters) if adapter.saved)
    if not (folder / "tokenizer.json").is_file():
        fault = "it resizes the vocabulary, and has no tokenizer.json that says to what"
        raise CheckpointError(fault, file=str(folder))
    tokenizer = parse_tokenizer(read_json(folder / "tokenizer.json"), config.vocab_size)
    if len(tokenizer.tokens) != config.vocab_size:
        rows = config.vocab_size
        fault = f"it has {len(tokenizer.tokens)} tokens, the adapter's embedding {rows} rows"
        raise CheckpointError(fault, file="tokenizer.json")
    tokenizer_config = optional_json(folder / "tokenizer_config.json")
    templates = read_chat_templates(folder, tokenizer_config) or checkpoint.chat_templates
    check_templates(tokenizer.added, templates)
    return replace(
        checkpoint,
        tokenizer=tokenizer,
        tokenizer_config=tokenizer_config,
        chat_templates=templates,
    )
