"""What llama.cpp takes for granted of a Llama model, and would abort on or misread, checked."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from operator import mul
from typing import Any

from llamacli.gguf.contents import STRING, TEMPLATE_KEY, TOOL_TEMPLATE_KEY, Array, GGUFFile
from llamacli.gguf.file import read_beginning

MAX_BLOCKS = 512  # llama.cpp's LLAMA_MAX_LAYERS
MAX_SIZE = (1 << 31) - 1  # contexts and vocabularies are int32 in llama.cpp
# Byte-level BPE's pre-tokenizers by llama.cpp's names (src/llama-vocab.cpp). The first ones it
# matches by code of its own; the others by std::regex, which needs stack for each character.
PRE_TOKENIZERS = {
    *("llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral", "midm-2.0", "lfm2", "smaug-bpe"),
    *("gpt-2", "smollm", "qwen2", "qwen35", "deepseek-r1-qwen", "megrez", "stablelm2", "olmo"),
    *("dbrx", "refact", "starcoder", "command-r", "exaone", "exaone4", "minerva-7b", "mpt"),
    *("trillion", "hunyuan", "kimi-k2", "codeshell", "jais", "chatglm-bpe", "glm4"),
}
RECURSIVE_PRE_TOKENIZERS = {
    *("deepseek-llm", "deepseek-coder", "deepseek-v3", "viking", "bloom", "minicpm5"),
    *("seed-coder", "tekken", "gpt-4o", "llama4", "poro-chat", "gpt3-finnish", "falcon"),
    *("superbpe", "hunyuan-dense", "bailingmoe", "youtu"),
}
SCALING_TYPES = ("none", "linear", "yarn", "longrope")
INT32 = 5
NORMAL, CONTROL = 1, 3  # GGUF token types
TOKEN_TYPES = {NORMAL, 2, CONTROL, 4, 5}  # unknown, user-defined, unused; bytes are another kind's
MAX_VOCABULARY = MAX_MERGES = 1 << 20  # some 200 bytes each in memory
MAX_TOKENS = 32 << 20  # bytes of their texts
END_TOKENS = "llamacli.end_token_ids"  # a key of the converter's: all that end an answer
MAX_ENDS = 1024
MAX_SPELLED = 256 << 20  # Llama 3's: 14 MB

# Keys that would make llama.cpp run another model than Llama 3, and their values that don't.
NEUTRAL = {
    "attention.causal": True,
    "pooling_type": 0,
    "nextn_predict_layers": 0,
    "expert_count": 0,
    "expert_used_count": 0,
    "expert_group_count": 0,
    "expert_group_used_count": 0,
}
SPECIAL_IDS = (
    *("bos", "eos", "eot", "eom", "unknown", "seperator", "padding", "cls", "mask"),
    *("fim_pre", "fim_suf", "fim_mid", "fim_pad", "fim_rep", "fim_sep"),
    *("prefix", "suffix", "middle"),
)


@dataclass(frozen=True)
class LlamaShape:
    """The sizes of a Llama model, from a file that check_llama has passed."""

    vocabulary: int
    context: int
    embedding: int
    feed_forward: int
    blocks: int
    heads: int
    kv_heads: int
    head_size: int


def check_llama(file: GGUFFile) -> LlamaShape:
    """Check a whole model: dimensions, rope, vocabulary, and every tensor's shape and type.

    Raises InvalidModelError that names the file and the fault.
    """
    check_architecture(file)
    check_vocabulary(file)
    for key, neutral in NEUTRAL.items():
        if file.metadata.get(f"llama.{key}", neutral) != neutral:
            file.fail(f"llama.{key} is {file.metadata[f'llama.{key}']}, which Llama 3 doesn't have")
    shape = _shape(file)
    _check_rope(file, shape)
    _check_tensors(file, shape)
    return shape


def read_header(header: bytes, size: int, name: str) -> tuple[GGUFFile, LlamaShape]:
    """A checked file of that size that begins so, before the rest of it is there; name is what
    errors call it."""
    contents = read_beginning(header, size, name)
    return contents, check_llama(contents)


def check_architecture(file: GGUFFile) -> None:
    """Refuse other architectures than Llama, what isn't a model, and parts of a split one."""
    if file.metadata.get("general.type") == "adapter":
        file.fail("it is an adapter, not a model; give it with --adapter, and its base with -m")
    if file.metadata.get("general.type") == "imatrix":
        file.fail("it is an importance matrix, not a model; give it to convert with --imatrix")
    if file.metadata.get("split.count", 1) not in (0, 1):
        file.fail("it is one part of a split model; merge the parts first (llama-gguf-split)")
    architecture = file.metadata.get("general.architecture")
    if architecture is None:
        file.fail("it names no architecture (general.architecture), so it is no model")
    if architecture != "llama":
        file.fail(f"its architecture is {architecture!r}; llamacli runs Llama models ('llama')")


def check_vocabulary(file: GGUFFile) -> None:
    """Check the tokenizer: byte-level BPE, its arrays as long as each other, its ids in range."""
    prefix = "tokenizer.ggml."
    model, pre = file.metadata.get(prefix + "model"), file.metadata.get(prefix + "pre")
    if model != "gpt2":
        file.fail(f"its tokenizer is {model!r}; llamacli reads byte-level BPE ('gpt2')")
    if pre not in PRE_TOKENIZERS | RECURSIVE_PRE_TOKENIZERS:
        file.fail(f"its pre-tokenizer is {pre!r}, none that llamacli knows ('llama-bpe', …)")
    key = prefix + "tokens"
    tokens = file.array_at(key)
    size = tokens.length
    if tokens.nbytes - 8 * size > MAX_TOKENS:
        file.fail(f"its tokens are absurdly long, {tokens.nbytes} bytes")
    if not 1 <= size <= MAX_VOCABULARY:
        file.fail(f"its vocabulary has {size} tokens, not 1 to {MAX_VOCABULARY}")
    if key not in file.known:
        check_tokens(file, file.strings(key))
    types = file.metadata.get(prefix + "token_type")
    if not isinstance(types, Array) or types.type != INT32 or types.length != size:
        file.fail(f"{prefix}token_type isn't an array of {size} int32")
    if unknown := set(file.numbers(prefix + "token_type")) - TOKEN_TYPES:
        file.fail(f"{prefix}token_type has the type {min(unknown)}, which Llama 3 doesn't have")
    scores = file.metadata.get(prefix + "scores")
    if scores is not None and (not isinstance(scores, Array) or scores.length != size):
        file.fail(f"{prefix}scores isn't an array of {size} numbers")
    merges = file.metadata.get(prefix + "merges")
    if not isinstance(merges, Array) or merges.type != STRING:
        file.fail(f"{prefix}merges is missing or not an array of strings")
    if merges.length > MAX_MERGES:
        file.fail(f"it has {merges.length} merges; {MAX_MERGES} can be read")
    for key in (TEMPLATE_KEY, TOOL_TEMPLATE_KEY):
        if not isinstance(file.metadata.get(key, ""), str):
            file.fail(f"{key} is not a text")
    for name in SPECIAL_IDS:
        token = file.metadata.get(f"{prefix}{name}_token_id")
        if token is None and name == "eos":  # llama.cpp would take token 11
            file.fail(f"{prefix}eos_token_id is missing; no answer would end")
        if token is not None and not (_is_count(token) and token < size):
            file.fail(f"{prefix}{name}_token_id is {token!r}; there are {size} tokens")
    if END_TOKENS in file.metadata:
        _check_ends(file, size)


def _check_ends(file: GGUFFile, vocabulary: int) -> None:
    ends = file.metadata[END_TOKENS]
    if not isinstance(ends, Array) or ends.type != INT32 or ends.length > MAX_ENDS:
        file.fail(f"{END_TOKENS} isn't an array of at most {MAX_ENDS} int32")
    for token in file.numbers(END_TOKENS):
        if not 0 <= token < vocabulary:
            file.fail(f"{END_TOKENS} has {token}; there are {vocabulary} tokens")


def check_tokens(file: GGUFFile, tokens: list[bytes]) -> None:
    """llama.cpp aborts where two tokens are the same, and cuts them at the first zero byte."""
    if len(set(tokens)) != len(tokens):
        [(token, _)] = Counter(tokens).most_common(1)
        file.fail(f"token {tokens.index(token)}, {token!r}, is there twice")
    text = b"\n".join(tokens)
    if b"" in tokens or b"\0" in text:
        bad = next(i for i, token in enumerate(tokens) if not token or b"\0" in token)
        file.fail(f"token {bad} is empty or has a zero byte in it")
    try:
        text.decode()
    except UnicodeDecodeError as error:
        file.fail(f"a token is not UTF-8: {text[max(error.start - 8, 0) : error.end + 8]!r}")
    # llama.cpp spells a token without byte-level letters out in the square of its length.
    lengths = list(map(len, tokens))
    if sum(map(mul, lengths, lengths)) > MAX_SPELLED:
        file.fail(f"its tokens are absurdly long, up to {max(lengths)} bytes")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _shape(file: GGUFFile) -> LlamaShape:
    def count(key: str, default: int | None = None, limit: int = MAX_SIZE) -> int:
        value = file.metadata.get(f"llama.{key}", default)
        if not _is_count(value) or not 1 <= value <= limit:
            file.fail(f"llama.{key} is {value!r}, not a number from 1 to {limit}")
        return int(value)

    embedding, heads = count("embedding_length"), count("attention.head_count")
    kv_heads = count("attention.head_count_kv", heads)
    head_size = count("attention.key_length", embedding // heads)
    for key in ("attention.value_length", "rope.dimension_count"):
        if count(key, head_size) != head_size:
            file.fail(f"llama.{key} is {count(key)}, the attention keys' length {head_size}")
    if head_size % 2:
        file.fail(f"its attention heads have {head_size} values, an odd number")
    if heads % kv_heads:
        file.fail(f"{heads} attention heads can't share {kv_heads} key-value heads")
    vocabulary = file.metadata["tokenizer.ggml.tokens"].length
    if count("vocab_size", vocabulary) != vocabulary:
        file.fail(f"llama.vocab_size is {count('vocab_size')}, the tokenizer has {vocabulary}")
    if count("embedding_length_out", embedding) != embedding:
        file.fail("llama.embedding_length_out differs from llama.embedding_length")
    return LlamaShape(
        vocabulary=vocabulary,
        context=count("context_length"),
        embedding=embedding,
        feed_forward=count("feed_forward_length"),
        blocks=count("block_count", limit=MAX_BLOCKS),
        heads=heads,
        kv_heads=kv_heads,
        head_size=head_size,
    )


def _check_rope(file: GGUFFile, shape: LlamaShape) -> None:
    def number(key: str, least: float, most: float, default: float) -> None:
        value = file.metadata.get(f"llama.{key}", default)
        fit = isinstance(value, int | float) and math.isfinite(value) and least <= value <= most
        if not fit or isinstance(value, bool):
            file.fail(f"llama.{key} is {value!r}, not a number from {least:g} to {most:g}")

    number("attention.layer_norm_rms_epsilon", 1e-12, 1.0, math.nan)  # nan: the key is required
    number("rope.freq_base", 1.0, 1e12, 10000.0)
    kind = file.metadata.get("llama.rope.scaling.type", "none")
    if kind not in SCALING_TYPES:
        file.fail(f"llama.rope.scaling.type is {kind!r}, none of {', '.join(SCALING_TYPES)}")
    for key in ("rope.scaling.factor", "rope.scale_linear"):
        number(key, 0.0 if kind == "none" else 1e-3, 1e6, 1.0)
    for key in ("attn_factor", "yarn_attn_factor", "yarn_beta_fast", "yarn_beta_slow"):
        number(f"rope.scaling.{key}", 0.0, 1e6, 1.0)
    number("rope.scaling.original_context_length", 1, MAX_SIZE, shape.context)


def _check_tensors(file: GGUFFile, shape: LlamaShape) -> None:
    tensors = {tensor.name: tensor for tensor in file.tensors}
    known = set()
    for name, expected, required in _expected_tensors(shape):
        known.add(name)
        tensor = tensors.get(name)
        if tensor is None:
            if required:
                file.fail(f"tensor {name} is missing")
            continue
        if tensor.shape != expected:
            file.fail(f"{name} has the shape {list(tensor.shape)}, expected {list(expected)}")
        if len(expected) == 1 and tensor.type.name != "F32":
            file.fail(f"{name} is {tensor.type.name}; vectors must be F32")
    if unknown := sorted(tensors.keys() - known):
        file.fail(f"{unknown[0]} is not a tensor of Llama 3")


def _expected_tensors(shape: LlamaShape) -> Iterator[tuple[str, tuple[int, ...], bool]]:
    """Name, shape in GGUF's order and whether it must be there, of all a Llama model may have."""
    width, inner = shape.embedding, shape.feed_forward
    queries, keys = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    yield "token_embd.weight", (width, shape.vocabulary), True
    yield "output_norm.weight", (width,), True
    yield "output.weight", (width, shape.vocabulary), False
    for name in ("rope_freqs", "rope_factors_long", "rope_factors_short"):
        yield f"{name}.weight", (shape.head_size // 2,), False
    matrices = {
        "attn_q": (width, queries),
        "attn_k": (width, keys),
        "attn_v": (width, keys),
        "attn_output": (queries, width),
        "ffn_gate": (width, inner),
        "ffn_up": (width, inner),
        "ffn_down": (inner, width),
    }
    for i in range(shape.blocks):
        yield f"blk.{i}.attn_norm.weight", (width,), True
        yield f"blk.{i}.ffn_norm.weight", (width,), True
        for name, (rows, columns) in matrices.items():
            yield f"blk.{i}.{name}.weight", (rows, columns), True
            yield f"blk.{i}.{name}.bias", (columns,), False
