"""What finished sequences leave, in the KV cache or beside it, so that others begin there."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count

from llamacli.batch.aside import Aside, Left, starts
from llamacli.batch.engine import BatchEngine
from llamacli.batch.job import Running
from llamacli.engine import KEPT_SEQUENCES, Scales, common_prefix

FIRST = 0  # the sequence that an engine's own methods know


@dataclass
class Kept:
    """left has what sequences hold that nobody answers in, by their numbers.

    Those used longest ago come first, and go first where cells are needed: they are set aside.
    running are those that are answered in.
    """

    engine: BatchEngine
    running: list[Running] = field(default_factory=list)
    left: dict[int, Left] = field(default_factory=dict)
    aside: Aside = field(init=False)

    def __post_init__(self) -> None:
        self.aside = Aside(self.engine)

    @property
    def cells(self) -> int:
        """At most so many: sequences with a common start share its cells."""
        return sum(len(one.tokens) for one in self.left.values())

    def keep(self, running: Running) -> None:
        """Its sequence stays as it is: a chat's in place of what it left before, another unless
        one like it has all of it."""
        tokens, chat = running.tokens[: running.evaluated], running.job.chat
        mine = Left(tokens, running.scales, chat)
        others = [(n, one.tokens) for n, one in self.left.items() if one.owner == mine.owner]
        has_all = chat is None and any(starts(tokens, other) for _, other in others)
        if not tokens or has_all:
            self.engine.drop(running.sequence)
            return
        for number, other in others:
            if chat is not None or starts(other, tokens):
                self.engine.drop(number)
                del self.left[number]
        self.aside.forget(mine)
        if len(self.left) >= KEPT_SEQUENCES:
            self.free_oldest()
        self.left[running.sequence] = mine

    def free_oldest(self) -> bool:
        """Free the cells of the one used longest ago; False where there is none."""
        if not self.left:
            return False
        self._set_aside(next(iter(self.left)))
        return True

    def make_way(self) -> None:
        """Set all that can be aside for those that are answered in.

        Not while there is an exact one: its cells are to lie in order, since llama.cpp's flash
        attention rounds its sums as it goes, and lower ones that become free would be taken first.
        """
        if any(one.job.exact and one.evaluated for one in self.running):
            return
        for number, left in list(self.left.items()):
            if self.aside.fits(len(left.tokens)):
                self._set_aside(number)

    def best(self, tokens: Sequence[int], scales: Scales) -> int:
        """The longest start of tokens by the same adapters that is there, set aside or not."""
        alike = (one.left.tokens for one in self.aside.states if one.left.scales == scales)
        aside = max((common_prefix(one, tokens) for one in alike), default=0)
        return max(self._longest(tokens, scales)[1], aside)

    def begin(self, running: Running) -> None:
        """Have it be one of those that are answered in: give it a sequence, and there the longest
        start that others or kept ones have of it by the same adapters.

        Exact ones begin at what their own chat left, else at nothing: what others read in other
        shapes has other last bits.
        """
        job, wanted = running.job, running.tokens[:-1]  # the last one's logits are needed
        shares = not job.exact or job.chat is not None
        own = job.chat if job.exact else None
        source, shared = self._longest(wanted, running.scales, own) if shares else (-1, 0)
        left = self.left.pop(source, None)
        if left is not None and left.chat == job.chat and shared == len(left.tokens):
            running.sequence = source  # goes on with all of it: no copy stays
        else:
            if left is not None:
                self.left[source] = left  # now the one used last
            running.sequence = self.unused()
            if shared:
                self.engine.copy(source, running.sequence, shared)
        running.evaluated = shared
        self.running.append(running)
        self.make_way()
        if shares:
            mine = Left(wanted, running.scales, own)
            running.evaluated = self._bring_back(running.sequence, mine, shared)
        if not running.answer.tokens:
            running.cached = running.evaluated

    def unused(self, but: int = -1) -> int:
        """The number of a sequence that holds nothing, but not that one; the one used longest ago
        makes room."""

        def free() -> set[int]:
            numbers = set(range(self.engine.parallel + KEPT_SEQUENCES)) - self.left.keys()
            return numbers - {one.sequence for one in self.running} - {but}

        if not free():
            self.free_oldest()
        return min(free())

    def each_in_first(self, most: int) -> Iterator[Left]:
        """Have the first sequence hold, one after another, those used last, to be saved from there.

        Gives what it holds. Nothing may run; what the first one held itself, which is the first to
        be given, is forgotten then.
        """
        numbers = sorted(list(self.left)[-most:], key=lambda number: number != FIRST)
        for number in numbers:
            if number != FIRST:
                self.engine.drop(FIRST)
                self.engine.copy(number, FIRST)
            yield self.left[number]
        self.left.pop(FIRST, None)
        for state in self.aside.states[::-1][: most - len(numbers)]:
            self.engine.drop(FIRST)
            source, shared = self._longest(state.left.tokens, state.left.scales)
            if shared:
                self.engine.copy(source, FIRST, shared)
            if self._bring_back(FIRST, state.left, shared) == len(state.left.tokens):
                yield state.left

    def from_first(self, tokens: list[int]) -> None:
        """Keep what the first sequence holds, where it was restored to, in one of its own."""
        number = next(n for n in count(FIRST + 1) if n not in self.left)
        self.engine.copy(FIRST, number)
        self.left[number] = Left(tokens, self.engine.scales, None)

    def _set_aside(self, number: int) -> None:
        """Free its cells. Of a start that others have nothing is copied, unless it is a chat's:
        an exact one goes on from its own alone."""
        left = self.left.pop(number)
        start = self._longest(left.tokens, left.scales)[1] if left.chat is None else 0
        self.aside.put(number, left, start)
        self.engine.drop(number)

    def _bring_back(self, number: int, wanted: Left, have: int) -> int:
        """Have a sequence that holds so many of the tokens hold as many as there are with what is
        set aside; how many it holds then. Others may be set aside for it."""
        for state, end in self.aside.parts(wanted, have):
            beside = self.unused(number)
            while not self.engine.restore_sequence(beside, state.data):
                if not self.free_oldest():
                    return have
            if have:
                self.engine.drop(beside, 0, have)
            self.engine.copy(beside, number, end)
            self.engine.drop(beside)
            self.aside.used(state)
            have = end
        return have

    def _longest(
        self, tokens: Sequence[int], scales: Scales, chat: str | None = None
    ) -> tuple[int, int]:
        """The sequence whose cells by the same adapters have the longest start of tokens, and its
        length; (-1, 0) where none has any. Of what a chat left alone, where one is named."""
        alike = [
            (number, left.tokens)
            for number, left in self.left.items()
            if left.scales == scales and chat in (None, left.chat)
        ]
        if chat is None:
            for one in self.running:
                if one.scales == scales:
                    alike.append((one.sequence, one.tokens[: one.evaluated]))
        lengths = [(number, common_prefix(there, tokens)) for number, there in alike]
        return max([(-1, 0), *lengths], key=lambda one: one[1])
