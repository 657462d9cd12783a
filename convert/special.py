"""The tokens that a checkpoint names: what begins and ends a text, and what ends an answer."""

from collections.abc import Iterator, Mapping
from typing import Any

from convert.checkpoint import Checkpoint
from convert.config import token_ids
from convert.errors import CheckpointError

NAMED_CONTROL_TOKENS = {"eot": "<|eot_id|>", "eom": "<|eom_id|>"}
NAMED = ("bos", "eos", "unk", "sep", "pad", "mask")
REQUIRED = ("bos", "eos")  # the others mean nothing here: nothing is padded or masked
NO_BOS = 49152  # tokens: llama.cpp's converter adds no BOS with vocabularies of this size


def special_ids(checkpoint: Checkpoint) -> dict[str, int | None]:
    """The ids of the tokens in NAMED: by tokenizer_config.json's text, else by config.json's id.

    Raises CheckpointError where bos or eos names a token that isn't there.
    """
    return {name: _special_id(checkpoint, name) for name in NAMED}


def end_tokens(checkpoint: Checkpoint) -> frozenset[int]:
    """The tokens that end an answer: generation_config.json's, else config.json's, as transformers
    goes by them; and the tokenizer's own eos_token."""
    eos = _by_text(checkpoint, "eos")
    return frozenset({*_end_ids(checkpoint), *(() if eos is None else (eos,))})


def adds_special_tokens(checkpoint: Checkpoint) -> dict[str, bool]:
    """Which of bos, eos and sep the tokenizer puts around a text; bos is always told.

    What the tokenizer leaves open is left out, but for bos: what llama.cpp would do. Follows
    SpecialVocab of the gguf package and llama.cpp's converter of Llama models.
    """
    added: dict[str, bool] = {}
    for processor in _processors(checkpoint.tokenizer.post_processor):
        kind = processor.get("type")
        if kind == "ByteLevel":
            added = {"bos": False, "eos": False} | added
        elif kind == "RobertaProcessing":
            added |= {"bos": True, "eos": True, "sep": True}
        elif kind == "TemplateProcessing":
            added |= _by_template(checkpoint, processor)
    for name in ("bos", "eos", "sep"):
        told = checkpoint.tokenizer_config.get(f"add_{name}_token")
        if isinstance(told, bool):
            added.setdefault(name, told)
    ids = special_ids(checkpoint)
    added.setdefault("bos", checkpoint.tokenizer.pre.adds_bos)
    if checkpoint.config.vocab_size == NO_BOS:
        added["bos"] = False
    return {name: value and ids[name] is not None for name, value in added.items()}


def _special_id(checkpoint: Checkpoint, name: str) -> int | None:
    by_text = _by_text(checkpoint, name)
    if by_text is not None:
        return by_text
    if name == "eos":
        return next(iter(_end_ids(checkpoint)), None)
    if name == "bos":
        return checkpoint.config.bos_token_id
    value: Any = checkpoint.config.raw.get(f"{name}_token_id")
    known = isinstance(value, int) and not isinstance(value, bool)
    return value if known and 0 <= value < checkpoint.config.vocab_size else None


def _by_text(checkpoint: Checkpoint, name: str) -> int | None:
    text = _text(checkpoint.tokenizer_config, name)
    if text is None:
        return None
    tokenizer = checkpoint.tokenizer
    if text in tokenizer.special:
        return tokenizer.special[text]
    if text in tokenizer.tokens:
        return tokenizer.tokens.index(text)
    if name in REQUIRED:
        fault = f"{name}_token {text!r} is not in the vocabulary"
        raise CheckpointError(fault, file="tokenizer_config.json")
    return None


def _text(tokenizer_config: Mapping[str, Any], name: str) -> str | None:
    """A named token's text, which is written as it is or within an object."""
    value = tokenizer_config.get(f"{name}_token")
    text = value.get("content") if isinstance(value, Mapping) else value
    return text if isinstance(text, str) else None


def _end_ids(checkpoint: Checkpoint) -> tuple[int, ...]:
    config, told = checkpoint.config, checkpoint.generation_config.get("eos_token_id")
    ids = token_ids(told, "eos_token_id", config.vocab_size, file="generation_config.json")
    return ids or config.eos_token_ids


def _processors(post_processor: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(post_processor, Mapping):
        inner = post_processor.get("processors", [post_processor])
        if isinstance(inner, list):
            yield from (one for one in inner if isinstance(one, Mapping))


def _by_template(checkpoint: Checkpoint, processor: Mapping[str, Any]) -> dict[str, bool]:
    """What a template such as `<bos> A`, and for two texts `<bos> A <sep> B`, puts around them."""
    config, added = checkpoint.tokenizer_config, {}
    begins = {_text(config, "bos"), _text(config, "cls")}
    eos, sep = _text(config, "eos"), _text(config, "sep")
    single, pair = _parts(processor.get("single")), _parts(processor.get("pair"))
    first = last = None
    if len(single) > 1:
        (first, _), (last, _) = single[0], single[-1]
        if first is not None:
            added["bos"] = first in begins or begins == {None}
        if last is not None:
            added["eos"] = last == eos or eos is None
    pair = pair[1:] if first is not None and pair and pair[0][0] == first else pair
    pair = pair[:-1] if last is not None and pair and pair[-1][0] == last else pair
    if len(pair) > 2 and pair[0][1] == "A" and pair[-1][1] == "B":
        between = [special for special, _ in pair[1:-1]]
        ends = [special is not None and special in (sep, eos) for special in between]
        added["sep"] = (ends[0] and last is None) or (len(ends) == 2 and ends[1])
    return added


def _parts(template: Any) -> list[tuple[str | None, str | None]]:
    """Of each part of a template, the special token's text and the text's name, A or B."""

    def name(part: Any, kind: str) -> str | None:
        entry = part.get(kind) if isinstance(part, Mapping) else None
        token = entry.get("id") if isinstance(entry, Mapping) else None
        return token if isinstance(token, str) else None

    parts = template if isinstance(template, list) else []
    return [(name(part, "SpecialToken"), name(part, "Sequence")) for part in parts]
