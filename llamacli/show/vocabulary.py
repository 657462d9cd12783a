"""A model's tokens as its vocabulary writes them, and finding some among them.

Byte-level BPE writes a visible letter for each byte: Ġ stands for a blank, Ã© for é.
"""

import re
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import convert
from llamacli.engine import Vocabulary, load_vocabulary
from llamacli.errors import UsageError
from llamacli.gguf import GGUFFile

if TYPE_CHECKING:
    from llamacli.show.config import Source

ASCII_LOWER = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}


class Token(NamedTuple):
    """written is the vocabulary's own spelling; text is what it stands for, broken UTF-8 as �."""

    id: int
    written: str
    text: str


def read_tokens(source: "Source") -> list[Token]:
    """Every token by id, from a GGUF file's metadata or a folder's tokenizer.json; no more."""
    if isinstance(source, GGUFFile):
        strings = source.strings("tokenizer.ggml.tokens")
        written: Sequence[str] = [raw.decode(errors="replace") for raw in strings]
        by_bytes = source.metadata.get("tokenizer.ggml.model") == "gpt2"
    else:
        raw = convert.read_json(source / "tokenizer.json")
        written, by_bytes = convert.parse_vocabulary(raw).tokens, True
    letters = {ord(letter): byte for byte, letter in enumerate(convert.byte_letters())}
    return [
        Token(i, token, _text(token, letters) if by_bytes else token)
        for i, token in enumerate(written)
    ]


def find_tokens(
    tokens: Sequence[Token], wanted: str, *, exact: bool = False, regex: bool = False
) -> list[Token]:
    """The tokens that contain wanted in any case, that are it (exact), or that it finds (regex).

    Texts are sought both in what a token stands for and in how it is written, where only A to Z
    have cases: the other letters stand for bytes there. A pattern is matched, case and all, with
    how a token is written. Raises UsageError where it is no regular expression.
    """
    if regex:
        search = _compiled(wanted).search
        return [token for token in tokens if search(token.written)]
    if exact:
        return [token for token in tokens if wanted in (token.text, token.written)]
    folded, lower = wanted.casefold(), wanted.translate(ASCII_LOWER)
    return [
        token
        for token in tokens
        if folded in token.text.casefold() or lower in token.written.translate(ASCII_LOWER)
    ]


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        with warnings.catch_warnings(action="ignore"):
            return re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise UsageError(f"{pattern!r} is not a regular expression: {error}") from None


def _text(written: str, letters: dict[int, int]) -> str:
    if written.isascii():
        return written
    try:
        return bytes([letters[ord(c)] for c in written]).decode(errors="replace")
    except KeyError:  # an added token, which is written as it is
        return written


def folder_vocabulary(folder: Path) -> Vocabulary:
    """The vocabulary of a checkpoint whose weights need not be there."""
    return vocabulary_of(
        convert.Checkpoint(
            name=convert.name_of(folder.resolve()),
            folder=folder,
            config=convert.read_config(folder),
            tokenizer=convert.parse_tokenizer(convert.read_json(folder / "tokenizer.json")),
            tokenizer_config=convert.optional_json(folder / "tokenizer_config.json"),
            generation_config={},
            chat_templates={},
            weights={},
        )
    )


def vocabulary_of(checkpoint: convert.Checkpoint) -> Vocabulary:
    """As llama.cpp has it. Raises InvalidModelError where it can't read that."""
    with tempfile.TemporaryDirectory(prefix="llamacli-") as place:
        path = Path(place) / "vocabulary.gguf"
        convert.write_header(path, checkpoint, convert.named_quantization("F32"), ())
        return load_vocabulary(path)
