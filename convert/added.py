"""Added tokens of tokenizer.json: which of them are control tokens, and what llama.cpp can't do."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from convert.errors import CheckpointError

# What llama.cpp takes for control tokens, or an answer's end, by their text, whatever their type
# (src/llama-vocab.cpp, llama_vocab::impl::load), and what its converter types so, whatever
# "special" says (conversion/base.py, does_token_look_special); some have a form of ENCLOSED, too.
MARKERS = (
    *("<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>"),
    *("<|end_of_text|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]"),
    *("<\uff5cend\u2581of\u2581sentence\uff5c>", "</s>", "<end_of_utterance>"),
    *("<|eom_id|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<eos>", "<turn|>"),
    *("<|tool_response>", "[e~[", "<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>"),
    *("<\uff5cfim\u2581begin\uff5c>", "<PRE>", "\u2581<PRE>", "<|code_prefix|>"),
    *("<|prefix|>", "<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<SUF>"),
    *("\u2581<SUF>", "<\uff5cfim\u2581hole\uff5c>", "<|code_suffix|>", "<|suffix|>"),
    *("<|fim_middle|>", "<MID>", "<fim-middle>", "<fim_middle>"),
    *("<\uff5cfim\u2581end\uff5c>", "\u2581<MID>", "<|middle|>", "<|code_middle|>"),
    *("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]", "<|fim_repo|>"),
    *("<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>", "<|file_sep|>", "<pad>"),
    *("<mask>", "<2mass>", "[@BOS@]"),
)
ENCLOSED = (("<|", "|>"), ("<\uff5c", "\uff5c>"), ("<unused", ">"))
FIRST = {text[0] for text in (*MARKERS, *(begin for begin, _ in ENCLOSED))}
FLAGS = ("lstrip", "rstrip", "single_word")
MAX_ADDED = 1 << 17  # tokens; Llama 3 adds 256
MAX_BEGINNINGS = 1 << 25  # letters of all that the texts of one tokenizer begin with
MAX_SEARCHED = 1 << 32  # letters of chat templates, over all tokens that are looked for in them
UNDONE = "which llama.cpp's tokenizer doesn't do"


@dataclass(frozen=True)
class AddedToken:
    """An added token. flags are the ones set of those by which it takes in text around it."""

    id: int
    text: str
    control: bool
    flags: tuple[str, ...]


def is_marker(text: str) -> bool:
    """Whether llama.cpp or its converter takes a token of this text for a control token."""
    enclosed = any(text.startswith(a) and text.endswith(b) for a, b in ENCLOSED)
    return enclosed or text in MARKERS


def markers_among(texts: Iterable[str]) -> set[str]:
    """Those of many texts that are markers."""
    return {text for text in texts if text[:1] in FIRST and is_marker(text)}


def read_added(entries: Any) -> list[AddedToken]:
    """Check tokenizer.json's added_tokens, an array or null. Raises CheckpointError."""
    entries = [] if entries is None else entries
    if not isinstance(entries, list):
        raise refused("added_tokens is not a list")
    if len(entries) > MAX_ADDED:
        raise refused(f"added_tokens has {len(entries)} entries, more than {MAX_ADDED}")
    added = [_read(entry) for entry in entries]
    for token in added:
        if token.flags and not token.control:
            raise refused(f"added token {token.text!r} has {token.flags[0]}, {UNDONE}")
    _check_overlaps([token.text for token in added if not token.control])
    return added


def check_templates(added: Iterable[AddedToken], templates: Mapping[str, str]) -> None:
    """Refuse control tokens in chat templates that would take in text around them.

    Elsewhere their flags mean nothing: no text becomes a control token here.
    """
    together = "\0".join(templates.values())
    flagged = [token for token in added if token.control and token.flags]
    if len(flagged) * len(together) > MAX_SEARCHED:
        raise refused(f"{len(flagged)} of its added tokens take in text around them")
    for token in flagged:
        if token.text in together:
            raise refused(
                f"added token {token.text!r} of the chat template has {token.flags[0]}, {UNDONE}"
            )


def _read(entry: Any) -> AddedToken:
    if not isinstance(entry, Mapping):
        raise refused(f"added token {entry!r} is not an object")
    token: Any = entry.get("id")
    text: Any = entry.get("content")
    is_id = isinstance(token, int) and not isinstance(token, bool) and token >= 0
    if not is_id or not isinstance(text, str) or not text:
        raise refused(f"added token {entry!r} has no id or no content")
    flags = tuple(flag for flag in FLAGS if entry.get(flag))
    return AddedToken(int(token), text, bool(entry.get("special")) or is_marker(text), flags)


def _check_overlaps(texts: list[str]) -> None:
    """Refuse tokens of which one can begin within another: tokenizers takes the first of them in
    a text, llama.cpp the longest. Runs of one letter come out alike."""
    if sum(len(text) ** 2 // 2 for text in texts) > MAX_BEGINNINGS:
        raise refused("its added tokens are absurdly long")
    begins: dict[str, str] = {}
    for text in texts:
        for end in range(1, len(text)):
            begins.setdefault(text[:end], text)
    for text in texts:
        for start in range(1, len(text)):
            other = begins.get(text[start:])
            if other is not None and len(set(text + other)) > 1:
                raise refused(
                    f"added tokens {text!r} and {other!r} can overlap in a text, "
                    "which llama.cpp then cuts otherwise"
                )


def refused(fault: str) -> CheckpointError:
    return CheckpointError(fault, file="tokenizer.json")
