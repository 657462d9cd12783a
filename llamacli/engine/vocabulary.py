"""Text to tokens and back, through llama.cpp's tokenizer."""

from array import array
from collections.abc import Iterable, Iterator
from contextlib import suppress
from ctypes import create_string_buffer
from dataclasses import dataclass, field
from typing import Any

from llamacli.errors import LlamacliError, UsageError
from llamacli.gguf import CONTROL, END_TOKENS, GGUFFile

MAX_TEXT = (1 << 31) - 1  # bytes; llama.cpp takes lengths as int32


@dataclass(frozen=True)
class Vocabulary:
    """A loaded model's tokens.

    special_tokens maps the spelling of every control token to its id; control_tokens are those
    ids. end_tokens end an answer.
    bos starts a prompt, and add_bos says that the model wants it where no template writes it.
    """

    size: int
    bos: int | None
    eos: int
    add_bos: bool
    end_tokens: frozenset[int]
    special_tokens: dict[str, int]
    control_tokens: frozenset[int]
    library: Any = field(repr=False)
    pointer: Any = field(repr=False)

    def tokenize(self, text: str, *, special: bool = False, bos: bool = False) -> list[int]:
        """The ids of text; a spelling of a control token becomes one only where special is set.

        Tokens that a foreign file marks as user-defined are matched either way; files that
        llamacli converts have none that look like Llama 3's control tokens. Raises UsageError
        where text has lone surrogates, which no UTF-8 can express.
        """
        try:
            raw = text.encode()
        except UnicodeEncodeError as error:
            raise UsageError(
                f"character {error.start} of the text is half a surrogate pair, not valid Unicode"
            ) from None
        if len(raw) > MAX_TEXT:
            raise UsageError(f"the text has {len(raw)} bytes; {MAX_TEXT} can be read at once")
        start = [self.bos] if bos and self.bos is not None else []
        room = len(raw) + 8
        for _ in range(2):
            tokens = (self.library.llama_token * room)()
            count = self.library.llama_tokenize(
                self.pointer, raw, len(raw), tokens, room, False, special
            )
            if count >= 0:
                return start + list(tokens[:count])
            room = -count
        raise LlamacliError("llama.cpp's tokenizer gave no stable length")

    def piece(self, token: int) -> bytes:
        """The bytes that token stands for; control tokens give their spelling."""
        room = 64
        for _ in range(2):
            buffer = create_string_buffer(room)
            count = self.library.llama_token_to_piece(self.pointer, token, buffer, room, 0, True)
            if count >= 0:
                return buffer.raw[:count]
            room = -count
        raise LlamacliError(f"llama.cpp gives no text for token {token}")

    def text_of(self, tokens: Iterable[int]) -> str:
        """The text of tokens, control tokens spelled out; broken UTF-8 becomes U+FFFD."""
        return b"".join(map(self.piece, tokens)).decode(errors="replace")


def make_vocabulary(library: Any, model: Any, file: GGUFFile) -> Vocabulary:
    """The vocabulary of a loaded model whose file has passed check_vocabulary."""
    pointer = library.llama_model_get_vocab(model)

    def spelling(token: int) -> str:
        text: bytes = library.llama_vocab_get_text(pointer, token)
        return text.decode()

    types = file.numbers("tokenizer.ggml.token_type")
    special = {spelling(i): i for i in _places(types, CONTROL)}
    named = {
        name: file.metadata.get(f"tokenizer.ggml.{name}_token_id")
        for name in ("bos", "eos", "eot", "eom")
    }
    ends = {token for name, token in named.items() if name != "bos" and token is not None}
    ends |= {token for token in special.values() if library.llama_vocab_is_eog(pointer, token)}
    if END_TOKENS in file.metadata:
        ends.update(file.numbers(END_TOKENS))
    return Vocabulary(
        size=library.llama_vocab_n_tokens(pointer),
        bos=named["bos"],
        eos=int(file.metadata["tokenizer.ggml.eos_token_id"]),
        add_bos=bool(file.metadata.get("tokenizer.ggml.add_bos_token", True)),
        end_tokens=frozenset(ends),
        special_tokens=special,
        control_tokens=frozenset(special.values()),
        library=library,
        pointer=pointer,
    )


def _places(values: "array[int]", wanted: int) -> Iterator[int]:
    """Where wanted is; a loop over 128,256 values would take 6 ms."""
    place = -1
    with suppress(ValueError):
        while True:
            place = values.index(wanted, place + 1)
            yield place
