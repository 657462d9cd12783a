"""What finished sequences had in the KV cache, in memory beside it.

llama.cpp's attention on a CPU goes over every cell up to the last one that is in use, whoever has
it: what nobody answers in would slow down all who do.
"""

from ctypes import Array, c_uint8
from dataclasses import dataclass, field
from time import perf_counter

from llamacli.batch.engine import BatchEngine
from llamacli.engine import Scales
from llamacli.machine import free_memory

PART = 4  # of the memory that is free, one of so many parts may be taken
# Of the time copying takes this share, and so many seconds at once, but for what has more tokens
# than LONG: without flash attention a value lies apart from a token's others, and to copy what was
# answered beside seven others takes as long as reading a tenth of it anew.
SHARE, BURST, LONG = 0.02, 0.1, 512


@dataclass(frozen=True, eq=False)
class State:
    """The cells of a sequence's tokens from start on; those before them are in others' too.

    scales are of the adapters that they were computed with, chat is the one that they belong to.
    """

    tokens: list[int]
    start: int
    scales: Scales
    chat: str | None
    data: Array[c_uint8]


@dataclass
class Aside:
    """states, those used longest ago first, have at most so many bytes: 0 sets nothing aside.

    That is as many as the KV cache has, where this machine's own memory holds it.
    """

    engine: BatchEngine
    most: int = field(init=False)
    states: list[State] = field(default_factory=list)
    taken: float = 0.0  # seconds of copying, beyond its share of the time until then
    then: float = 0.0

    def __post_init__(self) -> None:
        afar = self.engine.gpus or self.engine.settings.workers
        self.most = 0 if afar else min(self.engine.kv_nbytes, free_memory().resident // PART)

    @property
    def nbytes(self) -> int:
        return sum(len(state.data) for state in self.states)

    def put(self, number: int, tokens: list[int], start: int, scales: Scales,
            chat: str | None) -> None:  # fmt: skip
        """Copy what that sequence has from start on, where there is room for it, and time.

        Its cells before that are no longer its own then.
        """
        size = (len(tokens) - start) * self.engine.kv_nbytes // self.engine.cells
        began = perf_counter()
        self.taken, self.then = max(self.taken - SHARE * (began - self.then), 0.0), began
        if not 0 < size <= self.most or (self.taken > BURST and len(tokens) - start <= LONG):
            return
        if start:
            self.engine.drop(number, 0, start)
        try:
            data = self.engine.sequence_state(number)
        except MemoryError:
            return
        self.states.append(State(tokens, start, scales, chat, data))
        while self.nbytes > self.most:
            del self.states[0]
        self.taken += perf_counter() - began
