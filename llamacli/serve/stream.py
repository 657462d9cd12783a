"""An answer's pieces on their way from the engine's thread to the loop of HTTP, bounded."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

from llamacli.answer import Result
from llamacli.errors import LlamacliError
from llamacli.serve.logprobs import Said
from llamacli.tools import CallPart

MAX_WAITING = 4096  # pieces that a client hasn't taken; a reader that is slower loses its stream


@dataclass(frozen=True)
class Piece:
    """Text that can be shown of the answer with that index, parts of its calls where it is parted,
    and its tokens' probabilities; or how many tokens of its prompt are read. held says that the
    answer is held to calls, of which the text is.

    The last piece of an answer has its result, or an error.
    """

    index: int
    text: str = ""
    calls: Sequence[CallPart] = ()
    logprobs: tuple[Said, ...] = ()
    result: Result | None = None
    error: LlamacliError | None = None
    read: int | None = None
    held: bool = False

    @property
    def last(self) -> bool:
        return self.result is not None or self.error is not None


class SlowReader(LlamacliError):
    """The client doesn't take what it asked for."""


@dataclass
class Stream:
    """Pieces of one request's answers, count of them. Everything here happens in the loop.

    on_overflow is called where they aren't taken; begun, whether there was text, is the engine's
    thread's.
    """

    count: int
    on_overflow: Callable[[], None] = lambda: None
    waiting: deque[Piece] = field(default_factory=deque)
    there: asyncio.Event = field(default_factory=asyncio.Event)
    ended: int = 0
    begun: bool = False

    def put(self, piece: Piece) -> None:
        if len(self.waiting) >= MAX_WAITING:
            if self.ended < self.count:
                self.ended = self.count
                self.waiting.clear()
                self.waiting.append(Piece(0, error=SlowReader("the client reads too slowly")))
                self.on_overflow()
            return
        self.waiting.append(piece)
        self.there.set()

    async def __aiter__(self) -> AsyncIterator[Piece]:
        while self.waiting or self.ended < self.count:
            if self.waiting:
                piece = self.waiting.popleft()
                self.ended += piece.last
                yield piece
            else:
                self.there.clear()
                await self.there.wait()
