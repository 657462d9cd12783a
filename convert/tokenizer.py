"""tokenizer.json of Llama 3's byte-level BPE kind, checked, as GGUF wants it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from gguf import TokenType

from convert.errors import CheckpointError

# The pre-tokenizer that llama.cpp calls llama-bpe. Another pattern would split text differently.
LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class Tokenizer:
    """tokens[i] is the text of token i as the vocabulary writes it; types are GGUF token types.

    merges are pairs joined by a blank, in order of their rank; special maps the text of each
    control token to its id.
    """

    tokens: tuple[str, ...]
    types: tuple[int, ...]
    merges: tuple[str, ...]
    special: Mapping[str, int]


def parse_tokenizer(raw: Mapping[str, Any]) -> Tokenizer:
    """Check tokenizer.json. Raises CheckpointError where it isn't Llama 3's kind or not whole."""
    found = parse_vocabulary(raw)
    return replace(found, merges=_merges(raw["model"].get("merges"), raw["model"]["vocab"]))


def parse_vocabulary(raw: Mapping[str, Any]) -> Tokenizer:
    """The same without the merges, which take most of the time and are left empty."""
    model = raw.get("model")
    if not isinstance(model, dict) or model.get("type") != "BPE":
        kind = model.get("type") if isinstance(model, dict) else None
        raise _error(f"the model is {kind!r}, not Llama 3's byte-level BPE")
    if raw.get("normalizer") is not None:
        raise _error("it has a normalizer; Llama 3's has none")
    pattern = _pattern(raw.get("pre_tokenizer"))
    if pattern != LLAMA3_PATTERN:
        raise _error(f"its pre-tokenizer splits by {pattern!r}, which is not Llama 3's pattern")
    vocabulary = model.get("vocab")
    if not isinstance(vocabulary, dict) or not vocabulary:
        raise _error("model.vocab is missing or empty")
    texts = {token: text for text, token in vocabulary.items() if _is_id(token)}
    if len(texts) != len(vocabulary):
        raise _error("model.vocab gives a token no id, or one id to two tokens")
    types = dict.fromkeys(texts, int(TokenType.NORMAL))
    special = {}
    for token, text, control in _added_tokens(raw.get("added_tokens")):
        if texts.get(token, text) != text:
            raise _error(f"added token {text!r} takes the id {token} of {texts[token]!r}")
        texts[token] = text
        types[token] = int(TokenType.CONTROL if control else TokenType.USER_DEFINED)
        if control:
            special[text] = token
    size = len(texts)
    if max(texts) != size - 1:
        gap = next(i for i in range(size) if i not in texts)
        raise _error(f"token ids have gaps: {gap} is missing of {max(texts) + 1}")
    return Tokenizer(
        tokens=tuple(_text(texts[i]) for i in range(size)),
        types=tuple(types[i] for i in range(size)),
        merges=(),
        special=special,
    )


def _error(text: str) -> CheckpointError:
    return CheckpointError(f"tokenizer.json: {text}")


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _text(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _error(f"token {text!r} is not valid Unicode") from None
    return text


def _pattern(pre_tokenizer: Any) -> str | None:
    """The regular expression that splits text, wherever Hugging Face's versions keep it."""
    if not isinstance(pre_tokenizer, dict):
        return None
    steps = pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        return None
    if [step.get("type") for step in steps] != ["Split", "ByteLevel"]:
        return None
    if steps[0].get("behavior") != "Isolated" or steps[1].get("add_prefix_space"):
        return None
    pattern = steps[0].get("pattern")
    regex = pattern.get("Regex") if isinstance(pattern, dict) else None
    return regex if isinstance(regex, str) else None


def _added_tokens(added: Any) -> list[tuple[int, str, bool]]:
    entries = [] if added is None else added
    if not isinstance(entries, list):
        raise _error("added_tokens is not a list")
    tokens = []
    for entry in entries:
        token: Any = entry.get("id") if isinstance(entry, dict) else None
        text: Any = entry.get("content") if isinstance(entry, dict) else None
        if not _is_id(token) or not isinstance(text, str) or not text:
            raise _error(f"added token {entry!r} has no id or no content")
        # llama.cpp's converter also counts text of this form as control, whatever "special" says.
        looks_special = text.startswith("<|") and text.endswith("|>")
        tokens.append((int(token), text, bool(entry.get("special")) or looks_special))
    return tokens


def _merges(merges: Any, vocabulary: Mapping[str, int]) -> tuple[str, ...]:
    """Merges written as 'a b' or, by newer versions, as ['a', 'b']."""
    if not isinstance(merges, list) or not merges:
        raise _error("model.merges is missing or empty")
    pairs = []
    for rank, merge in enumerate(merges):
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if (
            not isinstance(pair, list)
            or len(pair) != 2
            or not all(isinstance(part, str) and part and " " not in part for part in pair)
        ):
            raise _error(f"merge {rank} is {merge!r}, expected a pair of tokens")
        if pair[0] not in vocabulary or pair[1] not in vocabulary:
            raise _error(f"merge {rank} joins {pair[0]!r} and {pair[1]!r}, not both tokens")
        if pair[0] + pair[1] not in vocabulary:
            raise _error(f"merge {rank} makes {pair[0] + pair[1]!r}, which is no token")
        pairs.append(f"{pair[0]} {pair[1]}")
    return tuple(pairs)
