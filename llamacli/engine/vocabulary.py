"""Text to tokens and back, through llama.cpp's tokenizer, and which tokens are markers."""

import re
from array import array
from collections.abc import Iterable, Iterator
from contextlib import suppress
from ctypes import c_char
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any
from weakref import WeakMethod

from convert import MARKERS, is_marker
from llamacli.errors import LlamacliError, UsageError
from llamacli.gguf import END_TOKENS, NORMAL, RECURSIVE_PRE_TOKENIZERS, GGUFFile

if TYPE_CHECKING:
    from llguidance import LLTokenizer

MAX_TEXT = (1 << 31) - 1  # bytes; llama.cpp takes lengths as int32
# Characters that a pre-tokenizer gets at once which needs stack for each: 16,384 overflow 8 MiB.
MAX_RECURSION = 2048


@dataclass(frozen=True)
class Vocabulary:
    """A loaded model's tokens.

    special_tokens maps the spelling of every control token to its id; control_tokens are those
    ids. They are what llama.cpp takes for such, and what it would match in any text though its own
    converter would have typed it so; those are typed_plain. end_tokens end an answer.
    bos starts a prompt, and add_bos says that the model wants it where no template writes it.
    """

    size: int
    bos: int | None
    eos: int
    add_bos: bool
    end_tokens: frozenset[int]
    special_tokens: dict[str, int]
    control_tokens: frozenset[int]
    typed_plain: frozenset[str]
    recursive: bool
    library: Any = field(repr=False)
    pointer: Any = field(repr=False)
    _known: dict[int, bytes] = field(default_factory=dict, repr=False)  # pieces that were asked for
    _matching: dict[re.Pattern[bytes], list[int]] = field(default_factory=dict, repr=False)

    def tokenize(self, text: str, *, special: bool = False, bos: bool = False) -> list[int]:
        """The ids of text; a spelling of a control token becomes one only where special is set.

        Raises UsageError where text has lone surrogates, which no UTF-8 can express.
        """
        start = [self.bos] if bos and self.bos is not None else []
        parts = [text] if special or not self.typed_plain else _cut(text, self.typed_plain)
        if self.recursive:
            parts = [piece for part in parts for piece in _short_pieces(part)]
        return start + [token for part in parts for token in self._tokenize(part, special)]

    def _tokenize(self, text: str, special: bool) -> list[int]:
        try:
            raw = text.encode()
        except UnicodeEncodeError as error:
            half = text[error.start]
            what = "half a surrogate pair, not valid Unicode"
            if "\udc80" <= half <= "\udcff":  # as Python keeps it of a command line, or of keys
                what = f"the byte 0x{ord(half) - 0xDC00:02x}, which isn't UTF-8"
            raise UsageError(f"the text has {what}") from None
        if len(raw) > MAX_TEXT:
            raise UsageError(f"the text has {len(raw)} bytes; {MAX_TEXT} can be read at once")
        room = len(raw) + 8  # a token has a byte or more
        tokens = (self.library.llama_token * room)()
        count = self.library.llama_tokenize(
            self.pointer, raw, len(raw), tokens, room, False, special
        )
        if count < 0:
            raise LlamacliError(f"llama.cpp makes more than {room} tokens of {len(raw)} bytes")
        return list(tokens[:count])

    def piece(self, token: int) -> bytes:
        """The bytes that token stands for; control tokens give their spelling."""
        if (known := self._known.get(token)) is not None:
            return known
        room = 64
        for _ in range(2):
            buffer = (c_char * room)()
            count = self.library.llama_token_to_piece(self.pointer, token, buffer, room, 0, True)
            if count >= 0:
                piece = self._known[token] = buffer.raw[:count]
                return piece
            room = -count
        raise LlamacliError(f"llama.cpp gives no text for token {token}")

    @cached_property
    def pieces(self) -> list[bytes]:
        """Every token's bytes; 0.2 seconds for 128,256 of them, when they are first asked for."""
        return list(map(self.piece, range(self.size)))

    def matching(self, pattern: re.Pattern[bytes]) -> list[int]:
        """The tokens, control tokens aside, whose bytes begin by the pattern; looked for once."""
        if pattern not in self._matching:
            self._matching[pattern] = [
                token
                for token, piece in enumerate(self.pieces)
                if pattern.match(piece) and token not in self.control_tokens
            ]
        return self._matching[pattern]

    @cached_property
    def trie(self) -> "LLTokenizer":
        """The tokens as llguidance has them: control tokens are no text, end tokens end it.

        Made when it is first asked for, in about 0.3 seconds for 128,256 tokens.
        """
        from llguidance import LLTokenizer, TokenizerWrapper

        ends = sorted(self.end_tokens)
        return LLTokenizer(TokenizerWrapper(_Tokens(self)), eos_token=ends)

    def text_of(self, tokens: Iterable[int]) -> str:
        """The text of tokens, control tokens spelled out; broken UTF-8 becomes U+FFFD."""
        return b"".join(map(self.piece, tokens)).decode(errors="replace")


class _Tokens:
    """What llguidance asks of a tokenizer. It holds no vocabulary: that holds llguidance's, where
    Python sees no circle."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.eos_token_id = vocabulary.eos
        self.bos_token_id = vocabulary.bos
        self.tokens = vocabulary.pieces
        self.special_token_ids = sorted(vocabulary.control_tokens | vocabulary.end_tokens)
        self.tokenize = WeakMethod(vocabulary.tokenize)

    def __call__(self, text: bytes) -> list[int]:
        tokenize = self.tokenize()
        return tokenize(text.decode()) if tokenize is not None else []


def make_vocabulary(library: Any, model: Any, file: GGUFFile) -> Vocabulary:
    """The vocabulary of a loaded model whose file has passed check_vocabulary."""
    pointer = library.llama_model_get_vocab(model)
    prefix = "tokenizer.ggml."

    def spelling(token: int) -> str:
        text: bytes = library.llama_vocab_get_text(pointer, token)
        return text.decode()

    typed = file.numbers(prefix + "token_type")
    candidates = {token for kind in set(typed) - {NORMAL} for token in _places(typed, kind)}
    candidates |= {token for text in MARKERS if (token := _special_id(library, pointer, text)) >= 0}
    control, plain = {}, set()
    for token in candidates:
        attributes = library.llama_vocab_get_attr(pointer, token)
        text = spelling(token)
        if attributes & library.LLAMA_TOKEN_ATTR_CONTROL:
            control[text] = token
        elif library.llama_vocab_is_eog(pointer, token) or is_marker(text):
            control[text] = token
            plain.add(text)
    named = {
        name: file.metadata.get(f"{prefix}{name}_token_id") for name in ("bos", "eos", "eot", "eom")
    }
    ends = {token for name, token in named.items() if name != "bos" and token is not None}
    ends |= {token for token in candidates if library.llama_vocab_is_eog(pointer, token)}
    if END_TOKENS in file.metadata:
        ends.update(file.numbers(END_TOKENS))
    return Vocabulary(
        size=library.llama_vocab_n_tokens(pointer),
        bos=named["bos"],
        eos=int(file.metadata[prefix + "eos_token_id"]),
        add_bos=bool(library.llama_vocab_get_add_bos(pointer)),
        end_tokens=frozenset(ends),
        special_tokens=control,
        control_tokens=frozenset(control.values()),
        typed_plain=frozenset(plain),
        recursive=file.metadata[prefix + "pre"] in RECURSIVE_PRE_TOKENIZERS,
        library=library,
        pointer=pointer,
    )


def _special_id(library: Any, pointer: Any, text: str) -> int:
    """The id of a token that llama.cpp matches whole where it parses special tokens, else -1."""
    raw = text.encode()
    tokens = (library.llama_token * 2)()
    count = library.llama_tokenize(pointer, raw, len(raw), tokens, 2, False, True)
    return int(tokens[0]) if count == 1 else -1


def _cut(text: str, spellings: Iterable[str]) -> list[str]:
    """text in parts none of which holds a spelling: it ends behind its signs, before its letters.

    Pre-tokenizers cut it there, too.
    """
    whole = sorted(spellings, key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, whole)))
    parts, done, place = [], 0, 0
    while piece := pattern.search(text, place):
        signs = re.match(r"[^\w\s]*", piece.group())
        length = len(signs.group()) if signs else 0
        place = piece.start() + (length if 0 < length < len(piece.group()) else 1)
        parts.append(text[done:place])
        done = place
    return [part for part in (*parts, text[done:]) if part]


def _short_pieces(text: str) -> Iterator[str]:
    """text in pieces of at most MAX_RECURSION characters, cut before a space that follows a word.

    Every pre-tokenizer cuts there. What has no such place is cut where it is too long.
    """
    start = 0
    while len(text) - start > MAX_RECURSION:
        end = start + MAX_RECURSION
        space = text.rfind(" ", start + 1, end)
        while space > start and text[space - 1].isspace():
            space = text.rfind(" ", start + 1, space)
        end = space if space > start else end
        yield text[start:end]
        start = end
    yield text[start:]


def _places(values: "array[int]", wanted: int) -> Iterator[int]:
    """Where wanted is; a loop over 128,256 values would take 6 ms."""
    place = -1
    with suppress(ValueError):
        while True:
            place = values.index(wanted, place + 1)
            yield place
