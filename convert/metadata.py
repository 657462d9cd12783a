"""The GGUF metadata of a Llama model: what llama.cpp's own converter writes, and our own keys.

README.md, the model card, is free text by strangers, and read with care.
"""

import json
import logging
import re
from collections.abc import Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any

import gguf
import yaml

from convert.checkpoint import Checkpoint
from convert.config import LlamaConfig
from convert.errors import CheckpointError
from convert.quantization import Origin, Quantization
from convert.special import NAMED_CONTROL_TOKENS, adds_special_tokens, end_tokens, special_ids

MAX_CARD = 1 << 18  # bytes; Meta's have 40 kB
SURROGATE = re.compile("[\ud800-\udfff]")  # half a pair, which UTF-8 hasn't
MAX_DEPTH = 16  # PyYAML's time grows with the square of it
MAX_LIST = 1024  # texts of a list: GGUF has three keys for each base model or dataset
LISTS = {"base_model", "base_models", "base_model_sources", "dataset", "datasets"} | {
    "dataset_sources", "language", "languages", "pipeline_tag", "tags",
}  # fmt: skip
# config.json and generation_config.json whole, as JSON strings, so that nothing of them is lost.
CONFIG_KEY = "llamacli.llama_config"
GENERATION_KEY = "llamacli.generation_config"
END_KEY = "llamacli.end_token_ids"  # all that end an answer; GGUF's own keys name three at most
MERGED_KEY = "llamacli.merged_adapters"  # the LoRA adapters in the weights, each as NAME:SCALE


def read_model_card(folder: Path) -> dict[str, Any]:
    """The texts in README.md's YAML front matter, and the lists of texts that GGUF has keys for.

    Empty without one. Raises OSError, ValueError or yaml.YAMLError where it can't be read, is
    too large or too deep, or has aliases, by which a short YAML text can grow without end.
    """
    path = folder / "README.md"
    if not path.is_file():
        return {}
    if path.stat().st_size > MAX_CARD:
        raise ValueError(f"the model card has {path.stat().st_size} bytes")
    lines = path.read_text(encoding="utf-8").splitlines()
    front = "\n".join(takewhile(lambda line: line != "---", lines[1:]))
    _check_yaml(front.replace("\t", "  "))  # as gguf reads it
    card = gguf.Metadata.load_model_card(folder)
    return {key: value for key, value in card.items() if _is_plain(key, value)}


def _check_yaml(text: str) -> None:
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent) or depth > MAX_DEPTH:
            raise ValueError("the model card has YAML aliases, or lists too deep in each other")


def _is_plain(key: Any, value: Any) -> bool:
    texts = value if key in LISTS and isinstance(value, list) and value else [value]
    plain = all(isinstance(text, str) and not SURROGATE.search(text) for text in texts)
    return plain and len(texts) <= MAX_LIST


def add_metadata(
    writer: gguf.GGUFWriter, checkpoint: Checkpoint, quantization: Quantization
) -> None:
    """Put every key of the file into the writer (made for the architecture 'llama')."""
    parameters = sum(tensor.parameters for tensor in checkpoint.weights)
    _add_general(writer, checkpoint, parameters)
    _add_architecture(writer, checkpoint.config)
    writer.add_file_type(quantization.file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    if quantization.importance is not None:
        _add_importance(writer, quantization.importance)
    if checkpoint.merged:
        writer.add_array(MERGED_KEY, list(checkpoint.merged))
    _add_tokenizer(writer, checkpoint)
    templates = checkpoint.chat_templates.items()
    writer.add_chat_template([{"name": name, "template": text} for name, text in templates if text])
    writer.add_string(CONFIG_KEY, _json_text(checkpoint.config.raw, "config.json"))
    if generation := checkpoint.generation_config:
        writer.add_string(GENERATION_KEY, _json_text(generation, "generation_config.json"))


def _json_text(value: Mapping[str, Any], file: str) -> str:
    """JSON again, as deep as it can be written: reading goes a few levels deeper."""
    try:
        return json.dumps(value, ensure_ascii=False)
    except RecursionError:
        raise CheckpointError("it is nested too deep", file=file) from None


def _add_general(writer: gguf.GGUFWriter, checkpoint: Checkpoint, parameters: int) -> None:
    """Name, size label, license and the rest, by the gguf package's own reading of a model card."""
    metadata = _model_card(checkpoint, parameters)
    metadata.name = metadata.name or checkpoint.name
    metadata.size_label = metadata.size_label or gguf.size_label(parameters, parameters, 0, 0)
    _set_sampling(metadata, checkpoint.generation_config)
    writer.add_type(gguf.GGUFType.MODEL)
    metadata.set_gguf_meta_model(writer)


def _model_card(checkpoint: Checkpoint, parameters: int) -> gguf.Metadata:
    """A card that can't be read (it is free text by strangers) costs the card, not the model."""
    logging.getLogger("gguf.metadata").setLevel(logging.CRITICAL)
    path = Path(checkpoint.name)
    try:
        card = read_model_card(checkpoint.folder)
        return gguf.Metadata.apply_metadata_heuristic(
            gguf.Metadata(), card, dict(checkpoint.config.raw), path, parameters
        )
    except Exception:
        return gguf.Metadata.apply_metadata_heuristic(gguf.Metadata(), None, None, path, parameters)


def _set_sampling(metadata: gguf.Metadata, generation: Mapping[str, Any]) -> None:
    """Sampling defaults; do_sample false means greedy decoding, temperature 0."""

    def number(key: str, least: float) -> float | None:
        value = generation.get(key)
        if value is None:
            return None
        numeric = isinstance(value, int | float) and not isinstance(value, bool)
        if not numeric or not least <= value < 1e6:
            fault = f"{key} is {value!r}, not a fit number"
            raise CheckpointError(fault, file="generation_config.json")
        return float(value)

    metadata.sampling_temp = number("temperature", 0.0)
    if generation.get("do_sample") is False:
        metadata.sampling_temp = 0.0
    top_k = number("top_k", 0)
    metadata.sampling_top_k = None if top_k is None else int(top_k)
    metadata.sampling_top_p = number("top_p", 0.0)
    metadata.sampling_min_p = number("min_p", 0.0)
    metadata.sampling_penalty_repeat = number("repetition_penalty", 0.0)


def _add_architecture(writer: gguf.GGUFWriter, config: LlamaConfig) -> None:
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    scaling = config.rope_scaling
    # llama3 scaling is the tensor rope_freqs.weight: llama.cpp aborts on that name as a type.
    if scaling is None or scaling.kind == "llama3":
        return
    writer.add_rope_scaling_type(gguf.RopeScalingType(scaling.kind))
    writer.add_rope_scaling_factor(scaling.factor)
    if scaling.kind == "yarn":
        writer.add_rope_scaling_orig_ctx_len(scaling.original_max_position_embeddings)
        if scaling.attention_factor is not None:
            writer.add_rope_scaling_yarn_attn_factor(scaling.attention_factor)
            # Of a Llama, llama.cpp reads this one alone, by which it multiplies the usual one.
            relative = scaling.attention_factor / scaling.usual_attention
            writer.add_rope_scaling_attn_factors(relative)
        if scaling.beta_fast is not None:
            writer.add_rope_scaling_yarn_beta_fast(scaling.beta_fast)
        if scaling.beta_slow is not None:
            writer.add_rope_scaling_yarn_beta_slow(scaling.beta_slow)


def _add_importance(writer: gguf.GGUFWriter, origin: Origin) -> None:
    """The keys that llama-quantize writes."""
    writer.add_string("quantize.imatrix.file", origin.file)
    if origin.dataset:
        writer.add_string("quantize.imatrix.dataset", origin.dataset)
    writer.add_uint32("quantize.imatrix.entries_count", origin.entries)
    writer.add_uint32("quantize.imatrix.chunks_count", origin.chunks)


def _add_tokenizer(writer: gguf.GGUFWriter, checkpoint: Checkpoint) -> None:
    tokenizer = checkpoint.tokenizer
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(tokenizer.pre.name)
    writer.add_token_list(tokenizer.tokens)
    writer.add_token_types(tokenizer.types)
    writer.add_token_merges(tokenizer.merges)
    for name, token in special_ids(checkpoint).items():
        if token is not None:
            getattr(writer, f"add_{name}_token_id")(token)
    for kind, text in NAMED_CONTROL_TOKENS.items():
        if (token := tokenizer.special.get(text)) is not None:
            getattr(writer, f"add_{kind}_token_id")(token)
    for name, added in adds_special_tokens(checkpoint).items():
        getattr(writer, f"add_add_{name}_token")(added)
    if isinstance(prefix := checkpoint.tokenizer_config.get("add_prefix_space"), bool):
        writer.add_add_space_prefix(prefix)
    if ends := sorted(end_tokens(checkpoint)):
        writer.add_array(END_KEY, ends)
