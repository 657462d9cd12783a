"""A LoRA adapter as PEFT saves it: its pairs, matched with the modules of a base model, and merged.

A folder with adapter_config.json and adapter_model.safetensors. Nothing here reads a weight.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from convert import system
from convert.adapter_config import CONFIG, AdapterConfig, read_adapter_config
from convert.checkpoint import INDEX, SINGLE, Checkpoint, read_tokenizer, tokenizer_notes
from convert.config import QUANTIZED, LlamaConfig
from convert.errors import CheckpointError
from convert.lora import Pair
from convert.safetensors import LocalFile, StoredTensor, read_header
from convert.small_files import read_json
from convert.tensors import TensorSpec, llama_tensors

WEIGHTS = "adapter_model.safetensors"
# What an adapter's folder may hold that is read; the first two must be there.
ADAPTER_FILES = (
    *(CONFIG, WEIGHTS, "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"),
)
PREFIX = "base_model.model."
OTHER = "is it the adapter of another model?"
SIDE = re.compile(r"(.+)\.lora_(?:([AB])\.weight|(embedding)_([AB]))")
# Whole tensors of the base by the names that PEFT gives them where it saves them, too. Of a resized
# vocabulary it saves what was there before, and what it is now under two names.
SAVED = re.compile(r"(.+?)(?:\.(modules_to_save|original_module|base_layer))?\.(weight|bias)")
VOCABULARY = ("model.embed_tokens.weight", "lm_head.weight")
EMBEDDING, OUTPUT = VOCABULARY


@dataclass(frozen=True)
class Adapter:
    """pairs are by the names of the base's tensors that they are added to, in the base's order.

    saved are tensors that take the place of the base's (modules_to_save, a resized embedding), by
    the base's names for them; copies are those of them that the base had when training began.
    """

    name: str
    folder: Path
    config: AdapterConfig
    pairs: Mapping[str, Pair]
    saved: Mapping[str, StoredTensor]
    copies: frozenset[str]

    @property
    def identity(self) -> str:
        """A text that changes when what it does may."""
        files = {tensor.file for pair in self.pairs.values() for tensor in (pair.a, pair.b)}
        files |= {tensor.file for tensor in self.saved.values()}
        scales = {name: pair.scale for name, pair in self.pairs.items()}
        return f"{sorted(file.identity for file in files)} {scales}"


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter, not a whole checkpoint."""
    whole = (folder / SINGLE).exists() or (folder / INDEX).exists()
    return (folder / CONFIG).is_file() and not whole


def read_base_config(folder: Path) -> LlamaConfig:
    """config.json of a base, whose weights may be quantized: they aren't read."""
    raw = read_json(folder / "config.json")
    return LlamaConfig.from_dict({k: v for k, v in raw.items() if k not in QUANTIZED})


def open_adapter(folder: Path, base: LlamaConfig, name: str | None = None) -> Adapter:
    """Read and check an adapter for a base of that config. Raises CheckpointError."""
    config = read_adapter_config(folder)
    if not (folder / WEIGHTS).is_file():
        others = sorted(path.name for path in folder.glob("adapter_model.*"))
        fault = f"its weights are in {others[0]}" if others else f"it has no {WEIGHTS}"
        if others:
            fault += "; only safetensors files are read, since pickles can run code"
        raise CheckpointError(fault, file=str(folder))
    # Where the output is the embedding, an adapter can still have it as a matrix of its own.
    untied = replace(base, tie_word_embeddings=False)
    specs = {spec.source: spec for spec in llama_tensors(untied)}
    sides: dict[str, dict[str, StoredTensor]] = defaultdict(dict)
    whole: dict[str | None, dict[str, StoredTensor]] = defaultdict(dict)  # by what SAVED finds
    for stored_name, tensor in read_header(LocalFile(folder / WEIGHTS)).items():
        bare = stored_name.removeprefix(PREFIX)
        if match := SIDE.fullmatch(bare):
            module, side = match[1], match[2] or match[3] + match[4]
            sides[module][side] = tensor
        elif match := SAVED.fullmatch(bare):
            source = f"{match[1]}.{match[3]}"
            _check_saved(source, tensor, specs)
            whole[match[2]][source] = tensor
        else:
            raise _error(f"{stored_name[:200]} is no part of a LoRA adapter")
    again, copies = whole["modules_to_save"], whole["base_layer"]
    saved = {**again, **whole[None]}
    if both := saved.keys() & copies.keys():
        raise _error(f"{min(both)} is there as the base has it and otherwise")
    saved |= copies
    if alone := whole["original_module"].keys() - saved.keys():
        raise _error(f"{min(alone)} is there as it was before alone")
    if differ := [source for source in again if again[source].shape != saved[source].shape]:
        raise _error(f"{differ[0]} is there twice, in different shapes")
    pairs = {f"{m}.weight": _pair(m, parts, specs, config) for m, parts in sides.items()}
    if not pairs and not saved:
        raise _error("it has no tensors")
    _check_vocabulary(saved, pairs, base)
    return Adapter(
        name=name or system.name_of(folder.resolve()),
        folder=folder,
        config=config,
        pairs={source: pairs[source] for source in specs if source in pairs},
        saved=saved,
        copies=frozenset(copies),
    )


def _error(fault: str, hint: str = "") -> CheckpointError:
    return CheckpointError(fault, file=WEIGHTS, hint=hint)


def _pair(
    module: str,
    parts: Mapping[str, StoredTensor],
    specs: Mapping[str, TensorSpec],
    config: AdapterConfig,
) -> Pair:
    spec = specs.get(f"{module}.weight")
    if spec is None or len(spec.shape) != 2:
        fault = f"it adapts {module[:200]}, which the base doesn't have as a matrix"
        raise _error(fault, OTHER)
    embedding = "embedding" if module.endswith("embed_tokens") else ""
    a, b = parts.get(f"{embedding}A"), parts.get(f"{embedding}B")
    if a is None or b is None or len(parts) != 2:
        raise _error(f"the pair of {module} is not lora_{embedding}A and lora_{embedding}B")
    if len(a.shape) != 2 or not a.shape[0]:
        raise _error(f"lora_{embedding}A of {module} has shape {list(a.shape)}")
    rank, wanted = a.shape[0], config.rank_of(module)
    if rank != wanted:
        raise _error(f"{module} has rank {rank}, but {CONFIG} makes it {wanted}")
    rows, columns = reversed(spec.shape) if embedding else spec.shape
    for letter, tensor, expected in (("A", a, (rank, columns)), ("B", b, (rows, rank))):
        if tensor.shape != expected:
            raise _error(
                f"lora_{embedding}{letter} of {module} has shape {list(tensor.shape)}, but the "
                f"base makes it {list(expected)}",
                OTHER,
            )
    return Pair(module, a, b, config.scale_of(module), bool(embedding))


def _check_saved(source: str, tensor: StoredTensor, specs: Mapping[str, TensorSpec]) -> None:
    """A whole tensor must be one of the base's; those of the vocabulary may have other rows."""
    spec = specs.get(source)
    if spec is None:
        fault = f"it has {source[:200]}, which the base doesn't have"
        raise _error(fault, OTHER)
    same = tensor.shape == spec.shape
    resized = source in VOCABULARY and len(tensor.shape) == 2 and tensor.shape[1:] == spec.shape[1:]
    if not (same or resized):
        raise _error(
            f"{source} has shape {list(tensor.shape)}, but the base makes it {list(spec.shape)}",
            OTHER,
        )


def _check_vocabulary(
    saved: Mapping[str, StoredTensor], pairs: Mapping[str, Pair], base: LlamaConfig
) -> None:
    """A resized vocabulary must be the same in all that has it."""
    rows = {source: saved[source].shape[0] for source in VOCABULARY if source in saved}
    sizes = set(rows.values()) or {base.vocab_size}
    if not base.tie_word_embeddings and len(rows) == 1:
        sizes.add(base.vocab_size)  # the other one is the base's
    if len(sizes) > 1:
        raise _error(f"the embedding and the output have {sorted(sizes)} rows: not one vocabulary")
    if sizes != {base.vocab_size} and not pairs.keys().isdisjoint(VOCABULARY):
        raise _error("it resizes the vocabulary and adapts its matrices, too, which isn't read")


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
    """With the tokenizer of the adapter that resized the vocabulary, and what is told of it."""
    folder = next(adapter.folder for adapter, _ in reversed(adapters) if adapter.saved)
    if not (folder / "tokenizer.json").is_file():
        fault = "it resizes the vocabulary, and has no tokenizer.json that says to what"
        raise CheckpointError(fault, file=str(folder))
    around = read_tokenizer(folder, config.vocab_size, checkpoint.chat_templates)
    gone = {*tokenizer_notes(checkpoint.tokenizer, checkpoint.chat_templates)}
    kept = [note for note in checkpoint.notes if note not in gone]
    told = tokenizer_notes(around["tokenizer"], around["chat_templates"])
    return replace(checkpoint, **around, notes=(*kept, *told))
