"""The summary of a model: what it is, how large it is, what it takes to run."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from convert import CONFIG_KEY, ConvertError, llama_tensors
from llamacli.errors import InvalidModelError
from llamacli.gguf import Array, GGUFFile, base_name, check_llama, is_adapter, stated_shape
from llamacli.models import Model
from llamacli.show.config import Source, find_config
from llamacli.show.metadata import find_template
from llamacli.show.rope import find_rope
from llamacli.show.tensors import Tensor, find_tensors
from llamacli.terminal import count, printable, shortened

F16 = 2  # bytes a value of the KV cache


def describe(source: Source) -> dict[str, Any]:
    """Facts by name, ready for JSON; None where the model doesn't tell or they make no sense."""
    if not isinstance(source, Path) and is_adapter(source):
        return _describe_adapter(source)
    facts = _describe_folder(source) if isinstance(source, Path) else _describe_file(source)
    layers, kv_heads, head_dim = facts["layers"], facts["kv_heads"], facts["head_dim"]
    known = layers and kv_heads and head_dim
    facts["kv_cache_bytes_per_token"] = 2 * layers * kv_heads * head_dim * F16 if known else None
    return facts | _rope(source) | {"has_template": find_template(source) is not None}


def lines(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The same for people: labels and values, without those that aren't known."""
    fact = facts.get
    tied: dict[Any, str] = {True: "the embedding's", False: "its own"}
    own: dict[Any, str] = {True: "its own", False: "none; Llama 3's is used"}
    rows = (
        ("name", fact("name")),
        ("path", fact("path")),
        ("format", fact("format")),
        ("architecture", fact("architecture")),
        ("license", fact("license")),
        ("base", fact("base")),
        ("adapts", f"{facts['matrices']} matrices" if "matrices" in facts else None),
        ("rank", _ranks(fact("ranks"))),
        ("alpha", f"{facts['alpha']:g}" if fact("alpha") else None),
        ("parameters", count(facts["parameters"]) if facts["parameters"] else None),
        ("quantization", fact("quantization")),
        ("size", _size(facts)),
        ("tensors", ", ".join(f"{number} {name}" for name, number in facts["types"].items())),
        ("context", _tokens(fact("context"))),
        ("layers", fact("layers")),
        ("hidden size", fact("hidden_size")),
        ("feed-forward", fact("feed_forward_size")),
        ("attention", _attention(facts)),
        ("vocabulary", _tokens(fact("vocabulary"))),
        ("output matrix", tied.get(fact("tied"))),
        ("rope", _rope_text(facts)),
        ("KV cache", _cache(facts)),
        ("template", own.get(fact("has_template"))),
        ("config", fact("config")),
        ("runs here", fact("runs", "with its base: run -m BASE --adapter")),
    )
    return [(label, shortened(printable(str(value)), 200)) for label, value in rows if value]


def _describe_adapter(file: GGUFFile) -> dict[str, Any]:
    """What a LoRA adapter says of itself, ready for JSON; alpha is None where it has none."""
    shape, tensors = stated_shape(file), find_tensors(file)
    name = file.metadata.get("general.name")
    return {
        "name": name if isinstance(name, str) and name else file.path.stem,
        "path": str(file.path),
        "format": f"LoRA adapter, GGUF version {file.version}",
        "base": base_name(file),
        "matrices": shape.pairs,
        "ranks": list(shape.ranks),
        "alpha": shape.alpha or None,
        "parameters": _parameters(tensors),
        "quantization": file.quantization,
        "bytes": file.size,
        "types": _count_types(tensors),
    }


def known_lines(model: Model) -> list[tuple[str, str]]:
    """What the registry has of a model, for people."""

    def size(number: int | None, unit: str = "B") -> str | None:
        return count(number, unit) if number else None

    rows = (
        ("name", model.name),
        ("source", model.source),
        ("revision", model.revision),
        ("license", model.license),
        ("parameters", size(model.parameters, "")),
        ("download", size(model.checkpoint_bytes)),
        ("quantization", model.quantization),
        ("size", size(model.gguf_bytes)),
        ("memory", size(model.memory_bytes)),
        ("context", _tokens(model.context)),
        ("in the store", f"no; `llamacli convert {model.name}` gets it"),
    )
    return [(label, value) for label, value in rows if value]


def _describe_file(file: GGUFFile) -> dict[str, Any]:
    architecture = file.metadata.get("general.architecture")
    tensors = find_tensors(file)
    tokens = file.metadata.get("tokenizer.ggml.tokens")

    def text(key: str) -> str | None:
        value = file.metadata.get(f"general.{key}")
        return value if isinstance(value, str) else None

    def size(key: str) -> int | None:
        value = file.metadata.get(f"{architecture}.{key}")
        return value if type(value) is int and value > 0 else None

    heads, hidden = size("attention.head_count"), size("embedding_length")
    return {
        "name": text("name") or file.path.stem,
        "path": str(file.path),
        "format": f"GGUF version {file.version}",
        "architecture": text("architecture"),
        "license": text("license"),
        "parameters": _parameters(tensors),
        "quantization": file.quantization,
        "bytes": file.size,
        "types": _count_types(tensors),
        "context": size("context_length"),
        "layers": size("block_count"),
        "hidden_size": hidden,
        "feed_forward_size": size("feed_forward_length"),
        "heads": heads,
        "kv_heads": size("attention.head_count_kv") or heads,
        "head_dim": size("attention.key_length") or (hidden // heads if heads and hidden else None),
        "vocabulary": tokens.length if isinstance(tokens, Array) else size("vocab_size"),
        "tied": all(tensor.name != "output.weight" for tensor in tensors),
        "config": "whole" if CONFIG_KEY in file.metadata else "derived from the metadata",
        "runs": _runs(file),
    }


def _describe_folder(folder: Path) -> dict[str, Any]:
    config = find_config(folder).config
    tensors = _stored_tensors(folder)
    return {
        "name": folder.resolve().name,
        "path": str(folder),
        "format": "Hugging Face checkpoint" + ("" if tensors else ", without its weights"),
        "architecture": "LlamaForCausalLM",
        "license": None,
        "parameters": sum(spec.parameters for spec in llama_tensors(config)),
        "quantization": config.torch_dtype,
        "bytes": sum(tensor.nbytes for tensor in tensors) or None,
        "types": _count_types(tensors),
        "context": config.max_position_embeddings,
        "layers": config.num_hidden_layers,
        "hidden_size": config.hidden_size,
        "feed_forward_size": config.intermediate_size,
        "heads": config.num_attention_heads,
        "kv_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "vocabulary": config.vocab_size,
        "tied": config.tie_word_embeddings,
        "config": "whole",
        "runs": "once it is converted",
    }


def _stored_tensors(folder: Path) -> tuple[Tensor, ...]:
    try:
        return find_tensors(folder)
    except ConvertError:  # --tensors tells what is wrong with them
        return ()


def _parameters(tensors: Sequence[Tensor]) -> int:
    """All but the factors that scale rotary frequencies, which nobody trained."""
    return sum(tensor.parameters for tensor in tensors if not tensor.name.startswith("rope_"))


def _count_types(tensors: Sequence[Tensor]) -> dict[str, int]:
    return dict(Counter(tensor.type for tensor in tensors).most_common())


def _runs(file: GGUFFile) -> str:
    try:
        check_llama(file)
    except InvalidModelError as error:
        return f"no: {error.fault}"
    return "yes"


def _rope(source: Source) -> dict[str, Any]:
    try:
        rope = find_rope(source)
    except (InvalidModelError, ConvertError):
        return {"rope_theta": None, "rope_scaling": None, "rope_factor": None}
    factor = float(rope.factors.max())
    return {"rope_theta": rope.theta, "rope_scaling": rope.scaling, "rope_factor": factor}


def _ranks(ranks: Sequence[int] | None) -> str | None:
    if ranks is None:
        return None
    least, most = ranks
    return str(least) if least == most else f"{least} to {most}"


def _rope_text(facts: Mapping[str, Any]) -> str | None:
    if facts.get("rope_theta") is None:
        return None
    scaling = facts["rope_scaling"]
    end = "no scaling" if scaling is None else f"{scaling} scaling, up to {facts['rope_factor']:g}"
    return f"theta {facts['rope_theta']:g}, {end}"


def _size(facts: Mapping[str, Any]) -> str | None:
    if not facts["bytes"]:
        return None
    size = count(facts["bytes"], "B")
    weighs = facts["parameters"] and "ranks" not in facts
    bits = facts["bytes"] * 8 / facts["parameters"] if weighs else 0
    return f"{size}, {bits:.2f} bits a parameter" if bits else size


def _attention(facts: Mapping[str, Any]) -> str | None:
    if not facts.get("heads") or not facts["head_dim"]:
        return None
    return f"{facts['heads']} heads of {facts['head_dim']}, {facts['kv_heads']} for keys and values"


def _cache(facts: Mapping[str, Any]) -> str | None:
    each = facts.get("kv_cache_bytes_per_token")
    if not each:
        return None
    whole = f", {count(each * facts['context'], 'B')} for all" if facts["context"] else ""
    return f"{count(each, 'B')} a token{whole} (F16)"


def _tokens(number: int | None) -> str | None:
    return f"{number} tokens" if number else None
