"""What finished sequences had in the KV cache, in memory beside it.

llama.cpp's attention on a CPU goes over every cell up to the last one that is in use, whoever has
it: what nobody answers in would slow down all who do.
"""

from ctypes import Array, c_uint8
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from llamacli.batch.engine import BatchEngine
from llamacli.engine import Scales, common_prefix
from llamacli.machine import free_memory

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SHARE = 4  # of the memory that is free, one of so many parts may be taken
MOST = 256  # states, which are looked through for each job


class Left(NamedTuple):
    """What a finished sequence has in the cache, or had: its tokens, the scales of the adapters
    that their cells were computed with, and the chat that it belongs to, if any."""

    tokens: list[int]
    scales: Scales
    chat: str | None

    @property
    def owner(self) -> tuple[Scales, str | None]:
        return self.scales, self.chat


@dataclass(frozen=True, eq=False)
class State:
    """The cells of a sequence's tokens from start on; those before them are in others' too."""

    left: Left
    start: int
    data: Array[c_uint8]


@dataclass
class Aside:
    """states, those used longest ago first, have at most so many bytes; 0 sets nothing aside.

    That is as many as the KV cache has, where this machine's own memory holds it.
    """

    engine: BatchEngine
    most: int = field(init=False)
    states: list[State] = field(default_factory=list)

    def __post_init__(self) -> None:
        afar = self.engine.gpus or self.engine.settings.workers
        self.most = 0 if afar else min(self.engine.kv_nbytes, free_memory().resident // SHARE)

    @property
    def nbytes(self) -> int:
        return sum(len(state.data) for state in self.states)

    def fits(self, count: int) -> bool:
        """Whether the cells of so many tokens can be set aside at all."""
        return count * self.engine.kv_nbytes // self.engine.cells <= self.most

    def put(self, number: int, left: Left, start: int) -> None:
        """Copy what that sequence has from start on, where there is room for it.

        Its cells before that are no longer its own then.
        """
        if start == len(left.tokens) or not self.fits(len(left.tokens) - start):
            return
        if start:
            self.engine.drop(number, 0, start)
        try:
            data = self.engine.sequence_state(number, _memory)
        except MemoryError:
            return
        self.states.append(State(left, start, data))
        while self.nbytes > self.most or len(self.states) > MOST:
            del self.states[0]

    def used(self, state: State) -> None:
        """Have it be the one used last, unless it was given up meanwhile."""
        if state in self.states:
            self.states.remove(state)
            self.states.append(state)

    def forget(self, longer: Left) -> None:
        """Those that a longer sequence takes the place of: its starts, and what its chat had."""
        self.states[:] = [
            state
            for state in self.states
            if state.left.owner != longer.owner
            or (longer.chat is None and not starts(state.left.tokens, longer.tokens))
        ]

    def parts(self, wanted: Left, have: int) -> list[tuple[State, int]]:
        """States that together have the cells of tokens from have on, each up to a position, in
        that order: as many of tokens as there are. Of a chat's alone, where one is named.
        """
        there = [
            (common_prefix(state.left.tokens, wanted.tokens), state)
            for state in self.states
            if state.left.scales == wanted.scales and wanted.chat in (None, state.left.chat)
        ]
        for end in sorted({length for length, _ in there if length > have}, reverse=True):
            chain = list[tuple[State, int]]()
            while end > have:
                able = [state for length, state in there if length >= end > state.start]
                if not able:
                    break  # what was before it was given up since
                chain.insert(0, (min(able, key=lambda one: one.start), end))
                end = chain[0][0].start
            else:
                return chain
        return []


def _memory(nbytes: int) -> "NDArray[np.uint8]":
    """As Python doesn't give it: to have it zeroed takes as long as to copy a state there."""
    import numpy as np

    return np.empty(nbytes, np.uint8)


def starts(tokens: list[int], longer: list[int]) -> bool:
    """Whether a sequence begins with all of those tokens."""
    return longer[: len(tokens)] == tokens
