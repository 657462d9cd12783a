"""What finished sequences leave in the KV cache, so that others begin there."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count

from llamacli.batch.engine import BatchEngine
from llamacli.batch.job import Running
from llamacli.engine import KEPT_SEQUENCES, Scales, common_prefix

FIRST = 0  # the sequence that an engine's own methods know


@dataclass
class Kept:
    """Sequences that nobody answers in, by their numbers: the tokens whose cells they hold, the
    scales of the adapters that those were computed with, and the chat that they belong to, if any.

    Those used longest ago come first, and go first where cells are needed.
    """

    engine: BatchEngine
    tokens: dict[int, list[int]] = field(default_factory=dict)
    scales: dict[int, Scales] = field(default_factory=dict)
    chats: dict[int, str | None] = field(default_factory=dict)

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
            self.drop_oldest()
        self.tokens[running.sequence] = tokens
        self.scales[running.sequence] = running.scales
        self.chats[running.sequence] = running.job.chat

    def drop_oldest(self) -> bool:
        """Free the cells of the one used longest ago; False where there is none."""
        if not self.tokens:
            return False
        self.drop(next(iter(self.tokens)))
        return True

    def drop(self, number: int) -> None:
        self.engine.drop(number)
        del self.tokens[number]

    def best(self, tokens: Sequence[int], scales: Scales) -> tuple[int, int]:
        """(the one with the longest common start by the same adapters, its length in tokens);
        (-1, 0) for none."""
        return self._longest(self._alike(scales), tokens)

    def begin(self, running: Running, others: Iterable[Running]) -> None:
        """Give it a sequence, and there the longest start that others or kept ones have of it by
        the same adapters.

        Exact ones begin at what their own chat left, else at nothing: what others read in other
        shapes has other last bits.
        """
        others = list(others)
        tokens, used = running.tokens, {other.sequence for other in others}
        alike = [] if running.job.exact else [o for o in others if o.scales == running.scales]
        if running.job.exact:
            own = self._of_chat(running) if running.job.chat is not None else []
            source, shared = self._longest(own, tokens)
        else:
            source, shared = self.best(tokens, running.scales)
        for other in alike:
            common = min(common_prefix(other.tokens, tokens), other.evaluated)
            if common > shared:
                source, shared = other.sequence, common
        shared = min(shared, len(tokens) - 1)
        goes_on = source in self._of_chat(running)
        held = self.tokens.pop(source, None)
        if goes_on and held is not None and shared == len(held):  # with all of it: no copy stays
            running.sequence = source
        else:
            if held is not None:
                self.tokens[source] = held  # now the one used last
            used |= self.tokens.keys()
            running.sequence = next(n for n in count() if n not in used)
            if shared:
                self.engine.copy(source, running.sequence, shared)
        running.evaluated = shared
        if not running.answer.tokens:
            running.cached = shared

    def unused(self, running: Iterable[Running]) -> int:
        """The number of a sequence that holds nothing; the one used longest ago makes room."""
        used = {one.sequence for one in running}
        if len(used | self.tokens.keys()) >= self.engine.parallel + KEPT_SEQUENCES:
            self.drop_oldest()
        return next(n for n in count() if n not in used and n not in self.tokens)

    def to_save(self, most: int) -> list[int]:
        """The numbers of those used last, the first one, whose place to_first takes, before all."""
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
        self.tokens[number], self.scales[number] = tokens, self.engine.scales
        self.chats[number] = None

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
