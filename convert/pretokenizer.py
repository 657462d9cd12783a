"""Which of llama.cpp's pre-tokenizers cuts text as a tokenizer.json says, told by its structure.

A row stands here because llama.cpp gave the same tokens as the tokenizers library for 20,000
strings of every kind (tests/test_pretokenizers.py). Source of the names and of what they do:
llm_tokenizer_bpe and llama_vocab::impl::load in llama.cpp's src/llama-vocab.cpp.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from convert.added import refused

# Llama 3's pattern, and the others as the tokenizer.json files of their models have them.
LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2_PATTERN = LLAMA3_PATTERN.replace("{1,3}", "")
QWEN35_PATTERN = QWEN2_PATTERN.replace(r"\p{L}+", r"[\p{L}\p{M}]+").replace(
    r"[^\s\p{L}\p{N}]", r"[^\s\p{L}\p{M}\p{N}]"
)
MINICPM_PATTERN = LLAMA3_PATTERN.replace("{1,3}", "+")
SEED_PATTERN = LLAMA3_PATTERN.replace("{1,3}", "{1}").replace(
    r"[^\s\p{L}\p{N}]+[\r\n]*", r"[^\s\p{L}\p{N}\r\n]+"
)
V3_PATTERN = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BLOOM_PATTERN = " ?[^(\\s|[.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c])]+"
HAN = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
HAN_AND_KANA = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
# What deepseek-llm takes for letters and for punctuation.
DEEPSEEK_LETTERS = (
    "\\s?[A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-"
    "\u02af\u0370-\u0373\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1"
    "\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-"
    "\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15\u1f18"
    "-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4"
    "\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2"
    "-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-"
    "\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-"
    "\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-"
    "\ua78e\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-"
    "\U0001044f\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-"
    "\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943]+"
)
DEEPSEEK_PUNCTUATION = "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+"


# A step of a pre-tokenizer: its type, and what it is set to.
Step = tuple[str, str]
BYTES: Step = ("ByteLevel", "")
GPT2: Step = ("ByteLevel", "GPT-2's pattern")
DIGITS: Step = ("Digits", "one by one")


def _splits(*patterns: str) -> tuple[Step, ...]:
    return tuple(("Split", pattern) for pattern in patterns)


@dataclass(frozen=True)
class PreTokenizer:
    """A pre-tokenizer of llama.cpp: its GGUF name, and the steps of tokenizer.json that it does.

    ignores_merges: a piece that is a token becomes it without its merges. adds_bos is what
    llama.cpp does where a file doesn't say. differs names what llama.cpp cuts otherwise than the
    tokenizers library; empty where nothing is known.
    """

    name: str
    steps: tuple[Step, ...]
    ignores_merges: bool = False
    adds_bos: bool = False
    differs: str = ""


BLANKS = "text beside the blanks U+3000, U+2028 and U+2029"

PRE_TOKENIZERS = (
    PreTokenizer(
        "llama-bpe", (*_splits(LLAMA3_PATTERN), BYTES), ignores_merges=True, adds_bos=True
    ),
    PreTokenizer("smaug-bpe", (*_splits(LLAMA3_PATTERN), BYTES)),
    PreTokenizer("gpt-2", (GPT2,)),
    PreTokenizer("smollm", (DIGITS, GPT2)),
    PreTokenizer("qwen2", (*_splits(QWEN2_PATTERN), BYTES)),
    PreTokenizer("qwen35", (*_splits(QWEN35_PATTERN), BYTES)),
    PreTokenizer("seed-coder", (*_splits(SEED_PATTERN), BYTES)),
    PreTokenizer("deepseek-v3", (*_splits(r"\p{N}{1,3}", HAN_AND_KANA, V3_PATTERN), BYTES)),
    PreTokenizer(
        "deepseek-llm",
        (
            *_splits(r"[\r\n]", DEEPSEEK_LETTERS, DEEPSEEK_PUNCTUATION, r"\s+$", HAN),
            *(DIGITS, BYTES),
        ),
        differs=BLANKS,
    ),
    PreTokenizer(
        "deepseek-coder",
        (*_splits(r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", HAN), DIGITS, BYTES),
        differs=BLANKS,
    ),
    PreTokenizer("viking", (*_splits(BLOOM_PATTERN), DIGITS, BYTES)),
    PreTokenizer("bloom", (*_splits(BLOOM_PATTERN), BYTES)),
    PreTokenizer(
        "minicpm5", (*_splits(r"\p{N}{1,3}", MINICPM_PATTERN), BYTES), ignores_merges=True
    ),
)


def recognize(pre_tokenizer: Any, *, ignores_merges: bool) -> PreTokenizer:
    """The row for tokenizer.json's pre_tokenizer and its model's ignore_merges.

    Raises CheckpointError that names what no pre-tokenizer of llama.cpp does.
    """
    steps = tuple(_steps(pre_tokenizer))
    same = [row for row in PRE_TOKENIZERS if row.steps == steps]
    for row in same:
        if row.ignores_merges == ignores_merges:
            return row
    if same:
        value = "true" if ignores_merges else "false or missing"
        raise refused(f"model.ignore_merges is {value}, which llama.cpp's {same[0].name} is not")
    told = " and then ".join(f"{kind} {how}".strip() for kind, how in steps)
    raise refused(f"its pre_tokenizer is {told}, which is none of llama.cpp's")


def _steps(step: Any) -> Iterator[Step]:
    """The steps in order; those of a Sequence, one deep as tokenizers writes it."""
    if not isinstance(step, Mapping):
        raise refused("its pre_tokenizer is missing, or is not an object")
    inner = step.get("pretokenizers") if step.get("type") == "Sequence" else [step]
    if not isinstance(inner, list) or not all(isinstance(one, Mapping) for one in inner):
        raise refused("its pre_tokenizer is a Sequence of something else than objects")
    yield from map(_step, inner)


def _step(step: Mapping[str, Any]) -> Step:
    """One step as rows have it; what none of them has is told by its settings."""
    kind = step.get("type")
    if kind == "ByteLevel":
        if step.get("add_prefix_space", True) is not False:
            return "ByteLevel", "a blank put before the text"
        return GPT2 if step.get("use_regex", True) is not False else BYTES
    if kind == "Digits":
        return DIGITS if step.get("individual_digits") is True else ("Digits", "together")
    if kind == "Split":
        return _split(step)
    return str(kind), ", ".join(f"{k} {v}" for k, v in step.items() if k != "type")


def _split(step: Mapping[str, Any]) -> Step:
    """Patterns that match everywhere split alike whether what they match or the rest is kept."""
    pattern = step.get("pattern")
    regex = pattern.get("Regex") if isinstance(pattern, Mapping) else None
    behavior, invert = step.get("behavior"), bool(step.get("invert"))
    if not isinstance(regex, str):
        return "Split", f"by {pattern!r}"
    regex = regex.replace("\r", r"\r").replace("\n", r"\n")
    whole = regex.endswith(r"|\s+") and behavior == "Removed" and invert
    if whole or (behavior == "Isolated" and not invert):
        return "Split", regex
    return "Split", f"{regex} ({behavior}{', inverted' if invert else ''})"


def byte_letters() -> list[str]:
    """The visible letter that byte-level BPE writes for each byte (GPT-2's bytes_to_unicode)."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = (b for b in range(256) if b not in visible)
    letters = {b: chr(b) for b in visible} | {b: chr(256 + i) for i, b in enumerate(hidden)}
    return [letters[b] for b in range(256)]
