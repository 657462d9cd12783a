"""Which tokens' probabilities a client is told, and when: those that the answer's text is made of.

Joined, their texts are the answer's: a control token, which is no text, is left out, as is what a
stop text cut off; of a token that it cut, what is left.
"""

import codecs
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from llamacli.answer import Answer
from llamacli.batch import TokenLogprob


@dataclass(frozen=True)
class Said:
    """A token of an answer's text: its bytes, and the characters from start on, in the whole text,
    that are complete with it: none where it ends within one."""

    chosen: TokenLogprob
    piece: bytes
    text: str
    start: int
    half: bool

    @property
    def end(self) -> int:
        return self.start + len(self.text) + self.half


@dataclass
class Telling:
    """An answer's tokens: read of them so many, shown so many characters."""

    read: int = 0
    shown: int = 0
    come: int = 0
    waiting: deque[Said] = field(default_factory=deque)
    decoder: codecs.IncrementalDecoder = field(
        default_factory=lambda: codecs.getincrementaldecoder("utf-8")(errors="replace")
    )

    def ready(
        self, answer: Answer, chosen: Sequence[TokenLogprob], text: str, *, last: bool
    ) -> tuple[Said, ...]:
        """Those whose text is given with this piece; chosen are all of the answer's so far."""
        for one in chosen[self.read :]:
            if answer.says(one.token):
                self._add(one, answer.vocabulary.piece(one.token))
        self.read, self.shown = len(chosen), self.shown + len(text)
        ready = []
        while self.waiting and self.waiting[0].end <= self.shown:
            ready.append(self.waiting.popleft())
        if last and self.waiting and self.waiting[0].start < self.shown:
            cut = self.waiting[0].text[: self.shown - self.waiting[0].start]
            ready.append(replace(self.waiting[0], text=cut, piece=cut.encode(), half=False))
        return tuple(ready)

    def _add(self, one: TokenLogprob, piece: bytes) -> None:
        text = self.decoder.decode(piece)
        half = bool(self.decoder.getstate()[0])
        self.waiting.append(Said(one, piece, text, self.come, half))
        self.come += len(text)
