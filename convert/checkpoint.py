"""A Hugging Face checkpoint: its small files, and where each tensor's bytes lie.

Of weights, shards' headers alone are read, and checked against the files' sizes; and where one
matrix is stored under two names, whether it is one.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypedDict

from convert import small_files, system
from convert.added import check_templates
from convert.config import DYNAMIC, LlamaConfig, rope_kind
from convert.errors import CheckpointError
from convert.lora import Pair
from convert.pool import Pool, some_ahead
from convert.safetensors import (
    LocalFile,
    StoredTensor,
    WeightFile,
    fetch_header,
    parse_header,
    reading,
)
from convert.stored import are_equal
from convert.tensors import TensorSpec, llama_tensors
from convert.tokenizer import Tokenizer, parse_tokenizer

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
# What a conversion reads besides the weights; all but the first two may be missing.
SMALL_FILES = (
    *("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"),
    *(*small_files.TEMPLATE_FILES.values(), "README.md", INDEX),
)
EMBEDDING, OUTPUT = "model.embed_tokens.weight", "lm_head.weight"
TIED = "where the embedding is the output as well, config.json says tie_word_embeddings true"
# What tensors tell that no Llama has, by a part of their names.
STRANGE = {
    "lora_": "a LoRA adapter's folder is converted by itself, or merged by --merge",
    ".scales": "the weights are quantized already; convert the full-precision checkpoint",
    "_proj.bias": "a Llama with biases says so in config.json (attention_bias, mlp_bias)",
}
PICKLES = re.compile(r"\.(bin|pth|pt)(\.index\.json)?$")
# What to do with files that are given in place of a folder, by their endings.
FILES = {
    ".gguf": "a GGUF file is converted already: name it with -m, as in run -m",
    **dict.fromkeys((".safetensors", ".json"), "name the folder that it is in"),
}
HEADERS_AT_ONCE = 8  # fetched, of 16 MiB at most; they are parsed one by one
LOOKED_FOR = 64  # tokens beyond the embedding's rows, in chat templates


@dataclass(frozen=True)
class Checkpoint:
    """Everything a conversion needs; weights holds, for each TensorSpec, where its bytes are.

    notes are lines for whoever converts it: what was chosen, and what llama.cpp does otherwise.
    pairs are those of LoRA adapters that are merged (see merge), by the tensors' sources; merged
    has the adapters' names and scales, merged_identity what tells their files from others.
    """

    name: str
    folder: Path
    config: LlamaConfig
    tokenizer: Tokenizer
    tokenizer_config: Mapping[str, Any]
    generation_config: Mapping[str, Any]
    chat_templates: Mapping[str, str]
    weights: Mapping[TensorSpec, StoredTensor]
    notes: tuple[str, ...] = ()
    pairs: Mapping[str, tuple[Pair, ...]] = field(default_factory=dict)
    merged: tuple[str, ...] = ()
    merged_identity: str = ""

    @property
    def chat_template(self) -> str | None:
        """The one that conversations have, but where it has another one for tools."""
        return self.chat_templates.get(small_files.DEFAULT)

    @property
    def source_nbytes(self) -> int:
        """Bytes of all weights as the checkpoint stores them."""
        return sum(tensor.nbytes for tensor in self.weights.values())

    @property
    def waits(self) -> bool:
        """Whether its weights are where a read is waited for."""
        return any(stored.file.waits for stored in self.weights.values())


def open_checkpoint(folder: Path) -> Checkpoint:
    """Read and check a checkpoint folder. Raises CheckpointError naming the file at fault."""
    if not folder.is_dir():
        raise CheckpointError(
            "it is not a folder with a Hugging Face checkpoint",
            file=str(folder),
            hint=FILES.get(folder.suffix.lower(), ""),
        )
    config = read_config(folder)
    files = [LocalFile(folder / name) for name in shard_names(folder)]
    return describe_checkpoint(folder, system.name_of(folder.resolve()), config, files)


def describe_checkpoint(
    folder: Path, name: str, config: LlamaConfig, files: Sequence[WeightFile]
) -> Checkpoint:
    """Put a checkpoint together from its small files in folder and its weight files anywhere."""
    around = read_tokenizer(folder, config.vocab_size)
    told = tokenizer_notes(around["tokenizer"], around["chat_templates"])
    notes = [*_notes(folder, config, files), *told]
    stored = _match(config, files)
    twice = config.tie_word_embeddings and OUTPUT in stored
    if twice and not are_equal(stored[EMBEDDING], stored[OUTPUT]):
        config = replace(config, tie_word_embeddings=False)
        notes.append(f"config.json ties {OUTPUT} to the embedding, but it differs: it is kept")
    return Checkpoint(
        name=name,
        folder=folder,
        config=config,
        **around,
        generation_config=small_files.optional_json(folder / "generation_config.json"),
        weights={spec: stored[spec.source] for spec in llama_tensors(config)},
        notes=tuple(notes),
    )


class AroundText(TypedDict):
    """What a checkpoint has of a tokenizer, by its fields' names."""

    tokenizer: Tokenizer
    tokenizer_config: Mapping[str, Any]
    chat_templates: Mapping[str, str]


def read_tokenizer(
    folder: Path, rows: int, templates: Mapping[str, str] | None = None
) -> AroundText:
    """A folder's tokenizer for an embedding of so many rows, its settings and chat templates.

    templates are those where it has none of its own. Raises CheckpointError.
    """
    with small_files.without_collection():
        tokenizer = parse_tokenizer(small_files.read_json(folder / "tokenizer.json"), rows)
    if len(tokenizer.tokens) != rows:
        fault = f"it has {len(tokenizer.tokens)} tokens, but the embedding has {rows} rows"
        raise CheckpointError(fault, file="tokenizer.json")
    settings = small_files.optional_json(folder / "tokenizer_config.json")
    own = small_files.read_chat_templates(folder, settings) or templates or {}
    check_templates(tokenizer.added, own)
    return {"tokenizer": tokenizer, "tokenizer_config": settings, "chat_templates": own}


def tokenizer_notes(tokenizer: Tokenizer, templates: Mapping[str, str]) -> Iterator[str]:
    """What becomes otherwise of a text, and of what the chat templates put around it."""
    if tokenizer.pre.differs:
        yield f"llama.cpp's {tokenizer.pre.name} cuts {tokenizer.pre.differs} otherwise"
    for text in tokenizer.beyond[:LOOKED_FOR]:
        if any(text in template for template in templates.values()):
            yield f"the chat template's {text!r} is beyond the embedding's rows: it is text"


def _notes(folder: Path, config: LlamaConfig, files: Sequence[WeightFile]) -> Iterator[str]:
    if [file.name for file in files] == [SINGLE] and (folder / INDEX).exists():
        others = sorted({*(_read_index(folder) or {}).values()} - {SINGLE})
        if others:
            yield f"{SINGLE} is taken, as transformers does, and not {others[0]} of {INDEX}"
    if rope_kind(config.raw) == DYNAMIC:
        most = config.max_position_embeddings
        yield f"dynamic rope scaling begins beyond {most} tokens, where the file's context ends"


def read_config(folder: Path) -> LlamaConfig:
    """config.json of a checkpoint folder, checked; no other file is read."""
    if not (folder / "config.json").exists():
        fault, hint = "it has no config.json; is it a Hugging Face checkpoint?", ""
        if (folder / "params.json").exists():
            fault = "it has Meta's own files (params.json), not those of a Hugging Face checkpoint"
            hint = "get the model by its id on the Hub, or make one by transformers' "
            hint += "convert_llama_weights_to_hf"
        raise CheckpointError(fault, file=str(folder), hint=hint)
    return LlamaConfig.from_dict(small_files.read_json(folder / "config.json"))


def shard_names(folder: Path, present: Collection[str] | None = None) -> list[str]:
    """The checkpoint's safetensors files: model.safetensors where it is, else those of the index.

    That is transformers' order. present holds the names of all files of the checkpoint, where
    others than those in folder are meant.
    """
    if present is None:
        present = {path.name for path in folder.iterdir() if path.is_file()}
    if SINGLE in present:
        return [SINGLE]
    index = _read_index(folder)
    if index is None:
        require_safetensors(str(folder), present)
        raise CheckpointError(f"it has no {INDEX}", file=str(folder))
    names = sorted(set(index.values()))
    for name in names:
        if name not in present:
            raise CheckpointError(f"it names {name}, which is missing in {folder}", file=INDEX)
    return names


def require_safetensors(where: str, present: Collection[str]) -> None:
    """Refuse a checkpoint that has its weights in another form, or none at all."""
    if SINGLE in present or INDEX in present:
        return
    shards = [name for name in sorted(present) if name.endswith(".safetensors")]
    if shards:
        raise CheckpointError(
            f"it has {shards[0]}, and no {INDEX} that says what is where",
            file=where,
            hint=f"fetch the index, too; a file that holds everything is called {SINGLE}",
        )
    others = [name for name in sorted(present) if PICKLES.search(name)]
    if others:
        raise CheckpointError(
            f"its weights are in {others[0]}; only safetensors files are read, "
            "since pickles can run code",
            file=where,
            hint="where you trust them, transformers' from_pretrained and save_pretrained write it "
            "anew as safetensors",
        )
    raise CheckpointError(f"it has neither {SINGLE} nor {INDEX}", file=where)


def _read_index(folder: Path) -> dict[str, str] | None:
    if not (folder / INDEX).exists():
        return None
    weight_map = small_files.read_json(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError("weight_map is missing or empty", file=INDEX)
    for tensor, name in weight_map.items():
        if not isinstance(name, str) or Path(name).name != name or not name:
            raise CheckpointError(
                f"{tensor} is said to be in {name!r}, not a file name", file=INDEX
            )
    return weight_map


def _headers(files: Sequence[WeightFile]) -> Iterator[dict[str, StoredTensor]]:
    """Each file's tensors in turn; some headers are fetched ahead, none is parsed ahead."""
    pool = Pool(HEADERS_AT_ONCE)
    with reading(files, pool):
        headers = some_ahead(lambda file: pool.submit(fetch_header, file), files, HEADERS_AT_ONCE)
        yield from (parse_header(file, raw) for file, raw in headers)


def _match(config: LlamaConfig, files: Sequence[WeightFile]) -> dict[str, StoredTensor]:
    """The tensors that config.json implies by their names; files must have all, and no others.

    Where the embedding is the output as well, either of their names will do, and both may be there.
    What no Llama has is refused as it comes, so that tensors by the million take no memory.
    """
    tied = config.tie_word_embeddings
    specs = {s.source: s for s in llama_tensors(replace(config, tie_word_embeddings=False))}
    stored: dict[str, StoredTensor] = {}
    for header in _headers(files):
        for name, tensor in header.items():
            if name in stored:
                fault = f"{name} is in {stored[name].file.name} as well"
                raise CheckpointError(fault, file=tensor.file.name)
            if name in specs:
                _check_shape(specs[name], tensor)
                stored[name] = tensor
            elif not name.endswith(".rotary_emb.inv_freq"):  # older checkpoints have them
                hint = next((told for part, told in STRANGE.items() if part in name), "")
                raise CheckpointError(f"unknown tensor {name}", file=tensor.file.name, hint=hint)
    if tied and EMBEDDING not in stored and OUTPUT in stored:
        stored[EMBEDDING] = stored.pop(OUTPUT)
    for name in specs:
        if name not in stored and not (tied and name == OUTPUT):
            hint = TIED if name == OUTPUT else ""
            raise CheckpointError(f"tensor {name} is missing in the safetensors files", hint=hint)
    return stored


def _check_shape(spec: TensorSpec, tensor: StoredTensor) -> None:
    if tensor.shape != spec.shape:
        raise CheckpointError(
            f"{spec.source} has shape {list(tensor.shape)}, but config.json makes it "
            f"{list(spec.shape)}; is it the config.json of another model?",
            file=tensor.file.name,
        )
