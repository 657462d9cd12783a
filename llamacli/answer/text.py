"""An answer as it grows, token by token: its text, and when it is at its end."""

import codecs
from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from llamacli.engine import Vocabulary

if TYPE_CHECKING:
    from llamacli.shape import Constraint
    from llamacli.tools import ToolConstraint

FinishReason = Literal["stop", "length", "interrupted", "tool_calls"]


@dataclass
class Answer:
    """tokens are those of the answer without the end token, at most limit; reason is None until
    its end."""

    vocabulary: Vocabulary
    limit: int
    text: "AnswerText"
    constraint: "Constraint | ToolConstraint | None" = None
    spelled: Container[int] = ()
    tokens: list[int] = field(default_factory=list)
    reason: FinishReason | None = None

    @property
    def left(self) -> int:
        """How many tokens may still come."""
        return self.limit - len(self.tokens)

    def take(self, token: int) -> str:
        """The text that can be shown now that token has been chosen; sets reason at the end."""
        cut = self.constraint is not None and self.constraint.cut
        if token in self.vocabulary.end_tokens or self._is_stop(token):
            self.reason = "length" if cut else "stop"
            return ""
        self.tokens.append(token)
        ready = ""
        if self.says(token):
            if self.constraint is not None and self.constraint.uncut:
                self.text.stop = ()
            ready = self.text.add(self.vocabulary.piece(token))
        if self.text.stopped:
            self.reason = "stop"
        elif self.constraint is not None and self.constraint.done:
            self.reason = "length" if cut else "stop"
        elif not self.left:
            self.reason = "length"
        return ready

    def says(self, token: int) -> bool:
        """Whether a token is text: a control token isn't, but where an answer spells it."""
        return token not in self.vocabulary.control_tokens or token in self.spelled

    def _is_stop(self, token: int) -> bool:
        """Whether a control token, which is no text, has the spelling of a stop text."""
        if not self.text.stop or token not in self.vocabulary.control_tokens:
            return False
        return self.vocabulary.piece(token).decode(errors="replace") in self.text.stop


class AnswerText:
    """Bytes in, printable text out: whole characters, and nothing that may begin a stop text."""

    def __init__(self, stop: Sequence[str]) -> None:
        self.stop = tuple(stop)
        self.stopped = False
        self.stop_text: str | None = None  # the one that has come
        self.pieces: list[str] = []
        self.held = ""
        self.decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    @property
    def given(self) -> str:
        return "".join(self.pieces)

    def add(self, raw: bytes) -> str:
        """What can be printed now that raw has come."""
        self.held += self.decoder.decode(raw)
        text = self.held
        ready, self.held, self.stopped = split_at_stop(text, self.stop)
        if self.stopped:
            self.stop_text = next(w for w in self.stop if text.startswith(w, len(ready)))
        self.pieces.append(ready)
        return ready

    def finish(self) -> str:
        """What was held back and turned out harmless; half a character is dropped."""
        rest, self.held = ("" if self.stopped else self.held), ""
        self.pieces.append(rest)
        return rest


def split_at_stop(text: str, stop: Sequence[str]) -> tuple[str, str, bool]:
    """(what may be shown, what must wait, whether a stop text has come).

    The earliest stop text ends the text. Without one, the longest ending that could begin a stop
    text waits.
    """
    places = [at for at in map(text.find, stop) if at >= 0]
    if places:
        return text[: min(places)], "", True
    waiting = max((_overlap(text, word) for word in stop), default=0)
    return text[: len(text) - waiting], text[len(text) - waiting :], False


def _overlap(text: str, word: str) -> int:
    """The length of the longest ending of text that word begins with."""
    longest = min(len(text), len(word) - 1)
    return next((n for n in range(longest, 0, -1) if word.startswith(text[-n:])), 0)
