"""What finished sequences leave in the KV cache, so that others begin there."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count

from llamacli.batch.aside import Aside, State
from llamacli.batch.engine import BatchEngine
from llamacli.batch.job import Running
from llamacli.engine import KEPT_SEQUENCES, Scales, common_prefix

FIRST = 0  # the sequence that an engine's own methods know
WORTH = 16  # tokens; their cells slow nobody down, and reading them takes no longer than one


@dataclass
class Kept:
    """Sequences that nobody answers in, by their numbers: the tokens whose cells they hold, the
    scales of the adapters that those were computed with, and the chat that they belong to, if any.

    Those used longest ago come first, and go first where cells are needed: they are set aside.
    running are those that are answered in.
    """

    engine: BatchEngine
    running: Sequence[Running] = ()
    tokens: dict[int, list[int]] = field(default_factory=dict)
    scales: dict[int, Scales] = field(default_factory=dict)
    chats: dict[int, str | None] = field(default_factory=dict)
    aside: Aside = field(init=False)
    settled: bool = True  # whether none is left to be set aside

    def __post_init__(self) -> None:
        self.aside = Aside(self.engine)

    @property
    def cells(self) -> int:
        """At most so many: sequences with a common start share its cells."""
        return sum(map(len, self.tokens.values()))

    def keep(self, running: Running) -> None:
        """Its sequence stays as it is: a chat's in place of what it left before, another unless
        one like it has all of it."""
        tokens, chat = running.tokens[: running.evaluated], running.job.chat
        others = [(number, self.tokens[number]) for number in self._of_chat(running)]
        has_all = any(common_prefix(other, tokens) == len(tokens) for _, other in others)
        if not tokens or (chat is None and has_all):
            self.engine.drop(running.sequence)
            return
        for number, other in others:
            if chat is not None or common_prefix(other, tokens) == len(other):
                self.drop(number)
        if len(self.tokens) >= KEPT_SEQUENCES:
            self.free_oldest()
        self._hold(running.sequence, tokens, running.scales, chat)

    def free_oldest(self) -> bool:
        """Free the cells of the one used longest ago; False where there is none."""
        if not self.tokens:
            return False
        self._set_aside(next(iter(self.tokens)))
        return True

    def make_way(self) -> None:
        """Set one aside that has cells of its own, for those that are answered in.

        Called before each evaluation: no step takes as long as copying all of them would. Not while
        there is an exact one: its cells are to lie in order, since llama.cpp's flash attention
        rounds its sums as it goes, and lower ones that become free would be taken first.
        """
        exact = any(one.job.exact and one.evaluated for one in self.running)
        if self.settled or exact or not self.aside.most:
            return
        for number, tokens in self.tokens.items():
            if len(tokens) - self._elsewhere(number) > WORTH:
                self._set_aside(number)
                return
        self.settled = True

    def drop(self, number: int) -> None:
        self.engine.drop(number)
        del self.tokens[number]

    def best(self, tokens: Sequence[int], scales: Scales) -> int:
        """The longest common start by the same adapters that one has, set aside or not, in
        tokens."""
        alike = (state.tokens for state in self.aside.states if state.scales == scales)
        aside = max((common_prefix(one, tokens) for one in alike), default=0)
        return max(self._longest(self._alike(scales), tokens)[1], aside)

    def begin(self, running: Running) -> None:
        """Give it a sequence, and there the longest start that others or kept ones have of it by
        the same adapters.

        Exact ones begin at what their own chat left, else at nothing: what others read in other
        shapes has other last bits.
        """
        self.settled = False
        tokens = running.tokens
        self._bring_back(running, self._source(running)[1])
        source, shared = self._source(running)
        shared = min(shared, len(tokens) - 1)
        goes_on = source in self._of_chat(running)
        held = self.tokens.pop(source, None)
        if goes_on and held is not None and shared == len(held):  # with all of it: no copy stays
            running.sequence = source
        else:
            if held is not None:
                self.tokens[source] = held  # now the one used last
            running.sequence = self._unused()[0]
            if shared:
                self.engine.copy(source, running.sequence, shared)
        running.evaluated = shared
        if not running.answer.tokens:
            running.cached = shared

    def unused(self) -> int:
        """The number of a sequence that holds nothing; the one used longest ago makes room."""
        if not self._unused():
            self.free_oldest()
        return self._unused()[0]

    def to_save(self, most: int) -> list[int]:
        """The numbers of those used last, the first one, whose place to_first takes, before all.

        What is set aside is brought back for it as far as there are cells. Nothing may run.
        """
        for state in reversed(self.aside.states[:]):
            if len(self.tokens) >= most:
                break
            if self.cells + len(state.tokens) <= self.engine.cells:
                self._restore(state)
        return sorted(list(self.tokens)[-most:], key=lambda number: number != FIRST)

    def to_first(self, number: int) -> None:
        """Have the first sequence hold what that one holds, to be saved from there.

        What the first one held itself is in no other, and forgotten.
        """
        if number != FIRST:
            if FIRST in self.tokens:
                self.drop(FIRST)
            self.engine.drop(FIRST)
            self.engine.copy(number, FIRST)

    def from_first(self, tokens: list[int]) -> None:
        """Keep what the first sequence holds, where it was restored to, in one of its own."""
        number = next(n for n in count(FIRST + 1) if n not in self.tokens)
        self.engine.copy(FIRST, number)
        self._hold(number, tokens, self.engine.scales, None)

    def _hold(self, number: int, tokens: list[int], scales: Scales, chat: str | None) -> None:
        self.tokens[number], self.scales[number], self.chats[number] = tokens, scales, chat
        self.settled = False

    def _set_aside(self, number: int) -> None:
        """Free its cells. Of a start that others have nothing is copied, unless it is a chat's:
        an exact one goes on from its own alone."""
        tokens, chat = self.tokens[number], self.chats[number]
        start = self._elsewhere(number) if chat is None else 0
        self.aside.put(number, tokens, start, self.scales[number], chat)
        self.drop(number)

    def _bring_back(self, running: Running, shared: int) -> None:
        """Have the cache hold what is set aside, where it has more of its tokens than shared.

        Others may be set aside for it, also where it can't be had after all.
        """
        chat, exact = running.job.chat, running.job.exact
        states = [one for one in self.aside.states if one.scales == running.scales]
        if exact:
            states = [one for one in states if chat is not None and one.chat == chat]
        lengths = [(common_prefix(one.tokens, running.tokens), one) for one in states]
        length, state = max(lengths, key=lambda one: one[0], default=(0, None))
        if state is not None and length > shared + WORTH:
            self._restore(state)

    def _restore(self, state: State) -> None:
        """Keep in the cache again what was set aside. A part of it that was given up since, or too
        few cells, cause that it is forgotten."""
        while len(self.tokens) > KEPT_SEQUENCES - 2:
            self.free_oldest()
        self.aside.states.remove(state)
        number, beside, *_ = self._unused()
        part: State | None = state
        tokens, end = state.tokens, len(state.tokens)
        while part is not None and self._put_back(beside, part):
            self.engine.copy(beside, number, end)
            self.engine.drop(beside)
            end = part.start
            source, shared = self._longest_of_all(tokens[:end], state.scales)
            if shared == end:
                if end:
                    self.engine.copy(source, number, end)
                self._hold(number, tokens, state.scales, state.chat)
                return
            part = self._part(tokens, end, state.scales)
        self.engine.drop(number)

    def _part(self, tokens: list[int], end: int, scales: Scales) -> State | None:
        """One that is set aside and has the cells of those tokens before end, if not all."""
        for state in self.aside.states:
            same = state.scales == scales and state.start < end
            if same and common_prefix(state.tokens, tokens) >= end:
                return state
        return None

    def _put_back(self, number: int, state: State) -> bool:
        while not self.engine.restore_sequence(number, state.data):
            if not self.free_oldest():
                return False
        return True

    def _elsewhere(self, number: int) -> int:
        """How many of its first tokens' cells another sequence has, too."""
        tokens, scales = self.tokens[number], self.scales[number]
        numbers = [other for other in self._alike(scales) if other != number]
        return max(self._longest(numbers, tokens)[1], self._running(tokens, scales)[1])

    def _source(self, running: Running) -> tuple[int, int]:
        """The sequence in the cache that it can begin with, and so many tokens of that; (-1, 0) for
        none."""
        if running.job.exact:
            own = self._of_chat(running) if running.job.chat is not None else []
            return self._longest(own, running.tokens)
        return self._longest_of_all(running.tokens, running.scales)

    def _longest_of_all(self, tokens: Sequence[int], scales: Scales) -> tuple[int, int]:
        kept = self._longest(self._alike(scales), tokens)
        return max(kept, self._running(tokens, scales), key=lambda one: one[1])

    def _alike(self, scales: Scales) -> list[int]:
        """The numbers of those that were computed with the adapters at these scales."""
        return [number for number in self.tokens if self.scales[number] == scales]

    def _of_chat(self, running: Running) -> list[int]:
        """Those of them that belong to its chat, or as it does to none."""
        alike = self._alike(running.scales)
        return [number for number in alike if self.chats[number] == running.job.chat]

    def _longest(self, numbers: Iterable[int], tokens: Sequence[int]) -> tuple[int, int]:
        lengths = ((number, common_prefix(self.tokens[number], tokens)) for number in numbers)
        return max(lengths, key=lambda one: one[1], default=(-1, 0))

    def _running(self, tokens: Sequence[int], scales: Scales) -> tuple[int, int]:
        """As _longest, of those that are answered in."""
        alike = [one for one in self.running if one.scales == scales]
        lengths = (
            (one.sequence, min(common_prefix(one.tokens, tokens), one.evaluated)) for one in alike
        )
        return max(lengths, key=lambda one: one[1], default=(-1, 0))

    def _unused(self) -> list[int]:
        """The numbers of all sequences that hold nothing."""
        used = {one.sequence for one in self.running} | self.tokens.keys()
        return [n for n in range(self.engine.parallel + KEPT_SEQUENCES) if n not in used]
