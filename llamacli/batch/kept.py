"""What finished sequences leave, in the KV cache or beside it, so that others begin there."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count

from llamacli.batch.aside import Aside
from llamacli.batch.engine import BatchEngine
from llamacli.batch.job import Running
from llamacli.engine import KEPT_SEQUENCES, Scales, common_prefix

FIRST = 0  # the sequence that an engine's own methods know


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
        self.aside.forget(tokens, running.scales, chat)
        if len(self.tokens) >= KEPT_SEQUENCES:
            self.free_oldest()
        self._hold(running.sequence, tokens, running.scales, chat)

    def free_oldest(self) -> bool:
        """Free the cells of the one used longest ago; False where there is none."""
        if not self.tokens:
            return False
        self._set_aside(next(iter(self.tokens)))
        return True

    def make_way(self, beside: Running | None = None) -> None:
        """Set all that can be aside for those that are answered in, and beside, which is about to
        be.

        Not while there is an exact one: its cells are to lie in order, since llama.cpp's flash
        attention rounds its sums as it goes, and lower ones that become free would be taken first.
        """
        answered = (*self.running, *filter(None, [beside]))
        exact = any(one.job.exact and one.evaluated for one in answered)
        for number, tokens in list(self.tokens.items()):
            if not exact and self.aside.fits(len(tokens)):
                self._set_aside(number, beside)

    def forget(self) -> None:
        """Nothing is in the cache any more; what is set aside stays."""
        self.tokens.clear()

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
        tokens, most = running.tokens, running.length - 1
        source, shared = self._source(running)
        shared = min(shared, most)
        goes_on = source in self._of_chat(running) and shared == len(self.tokens[source])
        if goes_on:  # with all of it: no copy stays
            running.sequence = source
            del self.tokens[source]
        else:
            running.sequence = self._unused()[0]
            if source in self.tokens:
                self.tokens[source] = self.tokens.pop(source)  # now the one used last
            if shared:
                self.engine.copy(source, running.sequence, shared)
        running.evaluated = shared
        self.make_way(running)
        chat = running.job.chat
        if not running.job.exact or chat is not None:
            own = chat if running.job.exact else None
            running.evaluated = self._bring_back(running.sequence, tokens[:most], shared,
                                                 running.scales, own)  # fmt: skip
        if not running.answer.tokens:
            running.cached = running.evaluated

    def unused(self, but: int = -1) -> int:
        """The number of a sequence that holds nothing, but not that one; the one used longest ago
        makes room."""
        if not set(self._unused()) - {but}:
            self.free_oldest()
        return next(number for number in self._unused() if number != but)

    def each_in_first(self, most: int) -> Iterator[tuple[list[int], Scales]]:
        """Have the first sequence hold, one after another, those used last, to be saved from there.

        Gives what it holds. Nothing may run; what the first one held itself, which is the first to
        be given, is forgotten then.
        """
        numbers = sorted(list(self.tokens)[-most:], key=lambda number: number != FIRST)
        for number in numbers:
            if number != FIRST:
                self.engine.drop(FIRST)
                self.engine.copy(number, FIRST)
            yield self.tokens[number], self.scales[number]
        self.tokens.pop(FIRST, None)
        for state in self.aside.states[::-1][: most - len(numbers)]:
            self.engine.drop(FIRST)
            source, shared = self._longest_of_all(state.tokens, state.scales)
            if shared:
                self.engine.copy(source, FIRST, shared)
            have = self._bring_back(FIRST, state.tokens, shared, state.scales, state.chat)
            if have == len(state.tokens):
                yield state.tokens, state.scales

    def from_first(self, tokens: list[int]) -> None:
        """Keep what the first sequence holds, where it was restored to, in one of its own."""
        number = next(n for n in count(FIRST + 1) if n not in self.tokens)
        self.engine.copy(FIRST, number)
        self._hold(number, tokens, self.engine.scales, None)

    def _hold(self, number: int, tokens: list[int], scales: Scales, chat: str | None) -> None:
        self.tokens[number], self.scales[number], self.chats[number] = tokens, scales, chat

    def _set_aside(self, number: int, beside: Running | None = None) -> None:
        """Free its cells. Of a start that others have nothing is copied, unless it is a chat's:
        an exact one goes on from its own alone."""
        tokens, chat, scales = self.tokens[number], self.chats[number], self.scales[number]
        start = 0
        if chat is None:
            numbers = [other for other in self._alike(scales) if other != number]
            kept = self._longest(numbers, tokens)[1]
            start = max(kept, self._running(tokens, scales, beside)[1])
        self.aside.put(number, tokens, start, scales, chat)
        self.drop(number)

    def _bring_back(
        self, number: int, tokens: list[int], have: int, scales: Scales, chat: str | None
    ) -> int:
        """Have a sequence that holds so many of tokens hold as many as there are with what is set
        aside; how many it holds then. Others may be set aside for it."""
        for state, end in self.aside.parts(tokens, have, scales, chat):
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

    def _running(
        self, tokens: Sequence[int], scales: Scales, beside: Running | None = None
    ) -> tuple[int, int]:
        """As _longest, of those that are answered in, and one beside them."""
        alike = [one for one in (*self.running, *filter(None, [beside])) if one.scales == scales]
        lengths = (
            (one.sequence, min(common_prefix(one.tokens, tokens), one.evaluated)) for one in alike
        )
        return max(lengths, key=lambda one: one[1], default=(-1, 0))

    def _unused(self) -> list[int]:
        """The numbers of all sequences that hold nothing."""
        used = {one.sequence for one in self.running} | self.tokens.keys()
        return [n for n in range(self.engine.parallel + KEPT_SEQUENCES) if n not in used]
