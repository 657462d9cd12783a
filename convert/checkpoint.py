"""A Hugging Face checkpoint: its small JSON files, and where each tensor's bytes lie.

Nothing here reads a weight: shards' headers alone, checked against the files' sizes.
"""

import json
import re
import stat
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convert.config import LlamaConfig, token_ids
from convert.errors import CheckpointError
from convert.safetensors import StoredTensor, read_header
from convert.tensors import TensorSpec, llama_tensors
from convert.tokenizer import Tokenizer, parse_tokenizer
from convert.weights import LocalFile, WeightFile

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
# What a conversion reads besides the weights; all but the first two may be missing.
SMALL_FILES = (
    *("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"),
    *("chat_template.jinja", "README.md", INDEX),
)
HEADERS_AT_ONCE = 8
# Bytes; the JSON module makes up to 35 of one. Llama 3's tokenizer.json has 9 or 17 MB.
MAX_TOKENIZER = 24 << 20
MAX_SMALL = 4 << 20
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


@dataclass(frozen=True)
class Checkpoint:
    """Everything a conversion needs; weights holds, for each TensorSpec, where its bytes are."""

    name: str
    folder: Path
    config: LlamaConfig
    tokenizer: Tokenizer
    tokenizer_config: Mapping[str, Any]
    generation_config: Mapping[str, Any]
    chat_template: str | None
    weights: Mapping[TensorSpec, StoredTensor]

    @property
    def source_nbytes(self) -> int:
        """Bytes of all weights as the checkpoint stores them."""
        return sum(tensor.nbytes for tensor in self.weights.values())


def open_checkpoint(folder: Path) -> Checkpoint:
    """Read and check a checkpoint folder. Raises CheckpointError naming the file at fault."""
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder with a Hugging Face checkpoint")
    config = read_config(folder)
    files = [LocalFile(folder / name) for name in shard_names(folder)]
    return describe(folder, folder.resolve().name, config, files)


def describe(
    folder: Path, name: str, config: LlamaConfig, files: Sequence[WeightFile]
) -> Checkpoint:
    """Put a checkpoint together from its small files in folder and its weight files anywhere."""
    tokenizer = parse_tokenizer(read_json(folder / "tokenizer.json"))
    if len(tokenizer.tokens) != config.vocab_size:
        raise CheckpointError(
            f"tokenizer.json has {len(tokenizer.tokens)} tokens, but config.json's vocab_size "
            f"(the embedding's rows) is {config.vocab_size}"
        )
    tokenizer_config = optional_json(folder / "tokenizer_config.json")
    generation_config = optional_json(folder / "generation_config.json")
    token_ids(
        generation_config.get("eos_token_id"),
        "generation_config.json: eos_token_id",
        config.vocab_size,
    )
    return Checkpoint(
        name=name,
        folder=folder,
        config=config,
        tokenizer=tokenizer,
        tokenizer_config=tokenizer_config,
        generation_config=generation_config,
        chat_template=read_chat_template(folder, tokenizer_config),
        weights=_match(config, files, _index(folder)),
    )


def read_config(folder: Path) -> LlamaConfig:
    """config.json of a checkpoint folder, checked; no other file is read."""
    if not (folder / "config.json").exists():
        raise CheckpointError(f"{folder} has no config.json; is it a Hugging Face checkpoint?")
    return LlamaConfig.from_dict(read_json(folder / "config.json"))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of sane size. Raises CheckpointError naming the file."""
    limit = MAX_TOKENIZER if path.name == "tokenizer.json" else MAX_SMALL
    try:
        _check_size(path, limit)
        text = path.read_bytes().decode("utf-8-sig")
        value = json.loads(text)
        if SURROGATE.search(text):  # halves of pairs can't be written; whole ones can
            json.dumps(value, ensure_ascii=False).encode()
    except FileNotFoundError:
        raise CheckpointError(f"{path.name} is missing in {path.parent}") from None
    except OSError as error:
        raise CheckpointError(f"{path} can't be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path.name} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path.name} holds no JSON object")
    return value


def _check_size(path: Path, limit: int) -> None:
    """Refuse what is too large, or no regular file: a link may lead to a device without an end."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointError(f"{path.name} is not a regular file")
    if status.st_size > limit:
        raise CheckpointError(f"{path.name} is absurdly large ({status.st_size} bytes)")


def shard_names(folder: Path, present: Collection[str] | None = None) -> list[str]:
    """The checkpoint's safetensors files, by the index in folder where there is one.

    present holds the names of all its files, where others than those in folder are meant.
    """
    if present is None:
        present = {path.name for path in folder.iterdir() if path.is_file()}
    index = _index(folder)
    if index is not None:
        names = sorted(set(index.values()))
        for name in names:
            if name not in present:
                raise CheckpointError(f"{INDEX} names {name}, which is missing in {folder}")
        return names
    require_safetensors(str(folder), present)
    return [SINGLE]


def require_safetensors(where: str, present: Collection[str]) -> None:
    """Refuse a checkpoint that has its weights in another form, or none at all."""
    if SINGLE in present or INDEX in present:
        return
    others = [name for name in sorted(present) if Path(name).suffix in (".bin", ".pth", ".pt")]
    if others:
        raise CheckpointError(
            f"{where} has its weights as {others[0]}; only safetensors files are read, "
            "since pickles can run code"
        )
    raise CheckpointError(f"{where} has neither {SINGLE} nor {INDEX}")


def _index(folder: Path) -> dict[str, str] | None:
    if not (folder / INDEX).exists():
        return None
    weight_map = read_json(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{INDEX}: weight_map is missing or empty")
    for tensor, name in weight_map.items():
        if not isinstance(name, str) or Path(name).name != name or not name:
            raise CheckpointError(f"{INDEX}: {tensor} is said to be in {name!r}, not a file name")
    return weight_map


def optional_json(path: Path) -> dict[str, Any]:
    """read_json, or an empty object where there is no such file."""
    return read_json(path) if path.exists() else {}


def read_chat_template(folder: Path, tokenizer_config: Mapping[str, Any]) -> str | None:
    """chat_template.jinja where it exists, else tokenizer_config.json's own."""
    path = folder / "chat_template.jinja"
    if path.exists():
        try:
            _check_size(path, MAX_SMALL)
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f"chat_template.jinja can't be read: {error}") from error
    template = tokenizer_config.get("chat_template")
    if isinstance(template, list):
        named = {t.get("name"): t.get("template") for t in template if isinstance(t, dict)}
        template = named.get("default")
    if template is not None and not isinstance(template, str):
        raise CheckpointError("tokenizer_config.json: chat_template is not a text")
    return template


def _headers(files: Sequence[WeightFile]) -> list[dict[str, StoredTensor]]:
    with ThreadPoolExecutor(HEADERS_AT_ONCE) as pool:
        try:
            return list(pool.map(read_header, files))
        except BaseException:
            for file in files:
                file.cancel()
            raise


def _match(
    config: LlamaConfig, files: Sequence[WeightFile], index: Mapping[str, str] | None
) -> dict[TensorSpec, StoredTensor]:
    """Pair what config.json implies with what the files hold; both must agree fully."""
    stored: dict[str, StoredTensor] = {}
    for file, header in zip(files, _headers(files), strict=True):
        for name, tensor in header.items():
            if name in stored:
                raise CheckpointError(f"{name} is in both {stored[name].file.name} and {file.name}")
            stored[name] = tensor
    if index is not None:
        for name, file_name in index.items():
            if name not in stored or stored[name].file.name != file_name:
                raise CheckpointError(f"{INDEX} puts {name} in {file_name}, but it is not there")
    weights = {}
    for spec in llama_tensors(config):
        found = stored.pop(spec.source, None)
        if found is None:
            raise CheckpointError(f"tensor {spec.source} is missing in the safetensors files")
        if found.shape != spec.shape:
            raise CheckpointError(
                f"{found.file.name}: {spec.source} has shape {list(found.shape)}, but config.json "
                f"makes it {list(spec.shape)}; is it the config.json of another model?"
            )
        weights[spec] = found
    for name, tensor in stored.items():
        # Older checkpoints store the rotary frequencies; a tied head may be stored as well.
        known = name.endswith(".rotary_emb.inv_freq") or (
            name == "lm_head.weight" and config.tie_word_embeddings
        )
        if not known:
            raise CheckpointError(f"{tensor.file.name}: unknown tensor {name}")
    return weights
