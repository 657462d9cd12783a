"""tokenizer.json of a byte-level BPE tokenizer, checked, as GGUF wants it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from operator import add
from typing import Any

from gguf import TokenType

from convert.added import AddedToken, markers_among, read_added, refused
from convert.pretokenizer import PreTokenizer, byte_letters, recognize
from convert.small_files import boolean

MAX_TOKENS = 1 << 21
# Fields of tokenizer.json's model that change tokens, and what they must be.
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "dropout": (None, 0, 0.0),
    "continuing_subword_prefix": (None, ""),
    "end_of_word_suffix": (None, ""),
}
TYPED = [*range(0x20, 0x7F), *b"\t\n"]  # the bytes that every vocabulary has a token for


@dataclass(frozen=True)
class Tokenizer:
    """tokens[i] is the text of token i as the vocabulary writes it; types are GGUF token types.

    merges are pairs joined by a blank, in order of their rank; special maps the text of each
    control token to its id. pre is how llama.cpp cuts text before the merges. post_processor is
    tokenizer.json's: what is put around a text. beyond are added tokens that no row is left for.
    """

    tokens: tuple[str, ...]
    types: tuple[int, ...]
    merges: tuple[str, ...]
    special: Mapping[str, int]
    pre: PreTokenizer
    added: tuple[AddedToken, ...] = ()
    post_processor: Any = None
    beyond: tuple[str, ...] = ()


def parse_tokenizer(raw: Mapping[str, Any], size: int | None = None) -> Tokenizer:
    """Check tokenizer.json. Raises CheckpointError where llama.cpp has no such tokenizer.

    size is the rows of the embedding: what a vocabulary lacks of it are tokens that never occur,
    and added tokens beyond it are left out.
    """
    vocabulary = parse_vocabulary(raw, size)
    model = raw["model"]
    return replace(
        vocabulary, merges=_merges(model.get("merges"), model["vocab"], vocabulary.special)
    )


def parse_vocabulary(raw: Mapping[str, Any], size: int | None = None) -> Tokenizer:
    """The same without the merges, which take most of the time and are left empty."""
    model = raw.get("model")
    if not isinstance(model, Mapping) or model.get("type", "BPE") != "BPE":
        kind = model.get("type") if isinstance(model, Mapping) else None
        raise refused(f"the model is {kind!r}, not a byte-level BPE")
    _check_sentencepiece(model)
    if (normalizer := raw.get("normalizer")) not in (None, {"type": "Sequence", "normalizers": []}):
        kind = normalizer.get("type") if isinstance(normalizer, Mapping) else normalizer
        raise refused(f"it has a normalizer ({kind}), and llama.cpp's tokenizer changes no text")
    _check_decoder(raw.get("decoder"))
    ignores = boolean(model, "ignore_merges", "tokenizer.json", "model.ignore_merges")
    pre = recognize(raw.get("pre_tokenizer"), ignores_merges=ignores)
    for key, neutral in NEUTRAL.items():
        if model.get(key) not in neutral:
            raise refused(f"model.{key} is {model[key]!r}, which llama.cpp's tokenizer doesn't do")
    vocabulary = _vocabulary(model.get("vocab"))
    _check_bytes(model, vocabulary)
    added = read_added(raw.get("added_tokens"))
    beyond: tuple[str, ...] = ()
    if size is not None:
        beyond = tuple(t.text for t in added if t.id >= size and t.text not in vocabulary)
        added = [token for token in added if token.id < size or token.text in vocabulary]
    tokens, types = _tokens(vocabulary, added, size)
    special = {token.text: token.id for token in added if token.control}
    if pre.ignores_merges:
        _check_words(special)
    return Tokenizer(
        tokens=tokens,
        types=types,
        merges=(),
        special=special,
        pre=pre,
        added=tuple(added),
        post_processor=raw.get("post_processor"),
        beyond=beyond,
    )


def _check_sentencepiece(model: Mapping[str, Any]) -> None:
    """Llama 2's tokenizers are BPE by their type, but on blanks and bytes of another kind."""
    vocabulary = model.get("vocab")
    by_bytes = isinstance(vocabulary, Mapping) and "<0x0A>" in vocabulary
    if model.get("byte_fallback") and by_bytes:
        raise refused("it is a SentencePiece tokenizer, as Llama 2's; byte-level BPE is converted")


def _check_decoder(decoder: Any) -> None:
    """Tokens become text by their bytes, which is what a tokenizer.json without a decoder means."""
    steps: Any = [decoder]
    if isinstance(decoder, Mapping) and decoder.get("type") == "Sequence":
        steps = decoder.get("decoders")
    for step in steps if isinstance(steps, list) else [steps]:
        kind = step.get("type") if isinstance(step, Mapping) else step
        if kind not in (None, "ByteLevel"):
            raise refused(f"its decoder is {kind!r}, and llama.cpp's tokenizer joins bytes alone")


def _vocabulary(vocabulary: Any) -> Mapping[str, int]:
    if not isinstance(vocabulary, Mapping) or not vocabulary:
        raise refused("model.vocab is missing or empty")
    ids = list(vocabulary.values())
    if set(map(type, ids)) != {int} or min(ids) < 0 or len(set(ids)) != len(ids):
        raise refused("model.vocab gives a token no id, or one id to two tokens")
    if max(ids) >= MAX_TOKENS:
        raise refused(f"model.vocab has the id {max(ids)}; {MAX_TOKENS} tokens are the most")
    return vocabulary


def _check_bytes(model: Mapping[str, Any], vocabulary: Mapping[str, int]) -> None:
    """Bytes without a token: tokenizers may write them another way, llama.cpp leaves them out."""
    letters = byte_letters()
    if missing := [byte for byte in TYPED if letters[byte] not in vocabulary]:
        raise refused(f"model.vocab has no token for {chr(missing[0])!r}")
    lacks = any(letter not in vocabulary for letter in letters)
    for key in ("unk_token", "byte_fallback"):
        if lacks and model.get(key):
            raise refused(
                f"model.{key} is {model[key]!r} and there are bytes without a token, "
                "which llama.cpp leaves out"
            )


def _tokens(
    vocabulary: Mapping[str, int], added: Iterable[AddedToken], size: int | None
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Every token's text and type; ids that nothing has are tokens that never occur."""
    most = max(chain(vocabulary.values(), (token.id for token in added))) + 1
    if most > MAX_TOKENS:
        raise refused(f"added_tokens has the id {most - 1}; {MAX_TOKENS} tokens are the most")
    length = max(most, size or 0)
    texts: list[str | None] = [None] * length
    types = [int(TokenType.NORMAL)] * length
    for text, token in vocabulary.items():
        texts[token] = text
    for one in added:
        if texts[one.id] not in (None, one.text):
            raise refused(f"added token {one.text!r} takes the id {one.id} of {texts[one.id]!r}")
        texts[one.id] = one.text
        types[one.id] = int(TokenType.CONTROL if one.control else TokenType.USER_DEFINED)
    if None in texts:
        _fill(texts, types)
    hidden = {*markers_among(vocabulary)} - {one.text for one in added}
    if hidden:
        text = min(hidden)
        raise refused(
            f"token {vocabulary[text]}, {text!r}, is none of the added tokens, but llama.cpp takes "
            "it for a control token"
        )
    whole = [text for text in texts if text is not None]
    _check_texts(whole)
    return tuple(whole), tuple(types)


def _fill(texts: list[str | None], types: list[int]) -> None:
    """Names as llama.cpp's converter gives them for ids that nothing has."""
    taken = set(texts)
    for token in [i for i, text in enumerate(texts) if text is None]:
        name = f"[PAD{token}]"
        texts[token] = name if name not in taken else f"[PAD{token}, unused]"
        types[token] = int(TokenType.UNUSED)


def _check_texts(texts: list[str]) -> None:
    seen: dict[str, int] = {}
    for token, text in enumerate(texts):
        if not text or "\0" in text:
            raise refused(f"token {token} is empty or has a zero byte in it")
        if (other := seen.setdefault(text, token)) != token:
            raise refused(f"tokens {other} and {token} are both {text!r}")
    together = "\n".join(texts)
    try:
        together.encode()
    except UnicodeEncodeError as error:
        bad = together[error.start : error.end]
        raise refused(f"a token has {bad!r}, which is not valid Unicode") from None


def _check_words(special: Mapping[str, int]) -> None:
    """Where a piece of text that is a token needs no merges, a control token must be no piece."""
    for text in special:
        rest = text[1:] if text[0] not in "\r\n" and not text[0].isalnum() else text
        kinds = {(c.isalpha(), c.isnumeric()) for c in text}
        if (rest and rest.isalpha()) or len(kinds) == 1:
            raise refused(f"the control token {text!r} is a word, which any text may have")


def _merges(
    merges: Any, vocabulary: Mapping[str, int], special: Mapping[str, int]
) -> tuple[str, ...]:
    """Merges written as 'a b' or, by newer versions, as ['a', 'b'], checked all at once."""
    if not isinstance(merges, list) or not merges:
        raise refused("model.merges is missing or empty")
    try:
        pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]
        written = list(map(" ".join, pairs))
        lefts, rights = [left for left, _ in pairs], [right for _, right in pairs]
        joined = list(map(add, lefts, rights))
        known = all(all(map(vocabulary.__contains__, part)) for part in (lefts, rights, joined))
    except (TypeError, ValueError):
        known = False
    if not known or "\n".join(written).count(" ") != len(written):
        rank = next(i for i, merge in enumerate(merges) if not _is_merge(merge, vocabulary))
        raise refused(f"merge {rank} is {merges[rank]!r}, no pair of tokens that makes a token")
    if any(map(special.__contains__, joined)):
        rank = next(i for i, text in enumerate(joined) if text in special)
        raise refused(f"merge {rank} makes the control token {joined[rank]!r}")
    return tuple(written)


def _is_merge(merge: Any, vocabulary: Mapping[str, int]) -> bool:
    pair = merge.split(" ") if isinstance(merge, str) else merge
    if not isinstance(pair, list) or len(pair) != 2 or not all(type(p) is str for p in pair):
        return False
    made = "".join(pair)
    return " " not in made and all(token in vocabulary for token in (*pair, made))
