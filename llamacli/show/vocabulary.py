"""A model's tokens as its vocabulary writes them, and finding some among them.

Byte-level BPE writes a visible letter for each byte: Ġ stands for a blank, Ã© for é.
"""

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import convert
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
        written, by_bytes = _read_folder(source), True
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
    fits = _pattern(wanted) if regex else _whole(wanted) if exact else _part(wanted)
    return [token for token in tokens if fits(token)]


def _part(wanted: str) -> Callable[[Token], bool]:
    folded, lower = wanted.casefold(), wanted.translate(ASCII_LOWER)

    def fits(token: Token) -> bool:
        return folded in token.text.casefold() or lower in token.written.translate(ASCII_LOWER)

    return fits


def _whole(wanted: str) -> Callable[[Token], bool]:
    return lambda token: wanted in (token.text, token.written)


def _pattern(wanted: str) -> Callable[[Token], bool]:
    try:
        with warnings.catch_warnings(action="ignore"):
            search = re.compile(wanted).search
    except (re.error, RecursionError, OverflowError) as error:
        raise UsageError(f"{wanted!r} is not a regular expression: {error}") from None
    return lambda token: search(token.written) is not None


def _read_folder(folder: Path) -> Sequence[str]:
    return convert.parse_vocabulary(convert.read_json(folder / "tokenizer.json")).tokens


def _text(written: str, letters: dict[int, int]) -> str:
    if written.isascii():
        return written
    try:
        return bytes([letters[ord(c)] for c in written]).decode(errors="replace")
    except KeyError:  # an added token, which is written as it is
        return written


@contextmanager
def vocabulary_file(folder: Path) -> Iterator[Path]:
    """A GGUF file with the vocabulary of a checkpoint alone, for as long as the block runs."""
    import tempfile

    checkpoint = convert.Checkpoint(
        name=folder.resolve().name,
        folder=folder,
        config=convert.read_config(folder),
        tokenizer=convert.parse_tokenizer(convert.read_json(folder / "tokenizer.json")),
        tokenizer_config=convert.optional_json(folder / "tokenizer_config.json"),
        generation_config={},
        chat_templates={},
        weights={},
    )
    with tempfile.TemporaryDirectory(prefix="llamacli-") as place:
        path = Path(place) / "vocabulary.gguf"
        convert.write_header(path, checkpoint, convert.named_quantization("F32"), ())
        yield path
