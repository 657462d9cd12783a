"""Which answers of a batch get drafts, and of how many tokens, as far as that pays for all; and a
small model that drafts for several side by side."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from llamacli.batch.engine import BatchEngine, Part
from llamacli.batch.job import Running
from llamacli.engine import common_prefix
from llamacli.speculate import MOST_ROWS, Costs, Drafts, Speculation, drafting_cost, likely_token

SLOWER = 2.0  # times a step without drafts, that one may take which others wait for


@dataclass
class Wanted:
    """A draft of at most that many tokens after those; drafted is None until they are read."""

    sequence: int
    tokens: Sequence[int]
    most: int
    drafted: list[int] | None = None
    ended: bool = False

    def rest(self, start: int) -> list[int]:
        """Its tokens and those drafted, from a position on."""
        drafted = self.drafted or []
        return [*self.tokens[start:], *drafted[max(start - len(self.tokens), 0) :]]


@dataclass
class SharedDraft:
    """cost is DraftModel's; held has the tokens in each sequence's cells."""

    engine: BatchEngine
    cost: float
    held: dict[int, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.engine.library.llama_memory_clear(self.engine.memory, False)

    def draft(self, wanted: Sequence[Wanted], running: Collection[int], most: int | None) -> None:
        """Fill in what is drafted: the likeliest tokens, as long as they are likely.

        running are the sequences that may want drafts later; the others' cells are free. At most
        so many tokens are read besides: a text that is longer is gone on with the next time.
        """
        going = [one for one in wanted if self._room(one) > 0]
        for one in going:
            self._begin(one)
        self._free(going, running)
        left = self.engine.cells if most is None else most
        while parts := self._parts(going, left):
            rows = self.engine.fill([part for _, part in parts])
            if self.engine.evaluate():
                self._forget()
                return
            left -= sum(len(part.tokens) for one, part in parts if one.drafted is None)
            for (one, part), row in zip(parts, rows, strict=True):
                self.held[one.sequence].extend(part.tokens)
                if row is not None:
                    self._take(one, row)

    def _room(self, one: Wanted) -> int:
        return min(one.most, self.engine.context_size - len(one.tokens))

    def _begin(self, one: Wanted) -> None:
        """Keep what its sequence has of its tokens, else what another has."""
        held = self.held.setdefault(one.sequence, [])
        same = common_prefix(held, one.tokens)
        if not same:
            number = max(self.held, key=lambda n: common_prefix(self.held[n], one.tokens))
            if same := common_prefix(self.held[number], one.tokens):
                self.engine.drop(one.sequence)
                self.engine.copy(number, one.sequence, same)
                held[:] = one.tokens[:same]
        same = min(same, len(one.tokens) - 1)
        if same < len(held):
            self.engine.drop(one.sequence, same)
            del held[same:]

    def _free(self, going: Sequence[Wanted], running: Collection[int]) -> None:
        """Drop what the others left where there is no room beside it."""
        more = sum(self._room(one) + len(one.rest(len(self.held[one.sequence]))) for one in going)
        for number in [number for number in self.held if number not in running]:
            if more + sum(map(len, self.held.values())) <= self.engine.cells:
                return
            self.engine.drop(number)
            del self.held[number]

    def _parts(self, going: Sequence[Wanted], most: int) -> list[tuple[Wanted, Part]]:
        """The next tokens of each; those of a draft before those that are only read."""
        parts, rows = list[tuple[Wanted, Part]](), self.engine.rows
        for one in sorted(going, key=lambda one: one.drafted is None):
            if one.ended:
                continue
            start = len(self.held[one.sequence])
            rest = one.rest(start)
            tokens = rest[:rows] if one.drafted is not None else rest[: min(rows, most)]
            if tokens:
                whole = len(tokens) == len(rest)
                parts.append((one, Part(one.sequence, start, tokens, int(whole))))
                rows -= len(tokens)
                most -= len(tokens) if one.drafted is None else 0
        return parts

    def _take(self, one: Wanted, row: int) -> None:
        """The next token of its draft, which ends where none is likely."""
        one.drafted = one.drafted or []
        token = likely_token(self.engine.logits(row))
        if token is not None:
            one.drafted.append(token)
        ends = self.engine.vocabulary.end_tokens
        one.ended = token is None or token in ends or len(one.drafted) >= self._room(one)

    def _forget(self) -> None:
        for number in self.held:
            self.engine.drop(number)
        self.held.clear()


@dataclass
class Proposals:
    """Proposes for an engine's answers. Nothing is proposed where the engine has no speculation.

    measure has the costs of checking measured where they aren't known.
    """

    engine: BatchEngine
    measure: Callable[[], Costs]
    draft: SharedDraft | None = field(init=False)

    def __post_init__(self) -> None:
        small = self.engine.draft
        self.draft = None
        if small is not None:
            self.draft = SharedDraft(small, drafting_cost(small.file, self.engine.file))

    def begin(self, running: Running) -> None:
        """Let it have drafts."""
        if self.engine.speculation is None or running.drafts is not None:
            return
        constraint = running.constraint
        running.drafts = Drafts(constraint.valid if constraint is not None else len)
        running.drafts.lookup.extend(running.tokens)

    def propose(
        self,
        answers: Sequence[Running],
        free: int,
        running: Collection[int] = (),
        *,
        read: int | None = None,
        even: bool = False,
    ) -> None:
        """Give each answer that is up to date what is drafted for it; free cells there are.

        even keeps a step from taking much longer than others would wait without drafts, and read
        is SharedDraft's most; running are the numbers of all sequences.
        """
        speculation, count = self.engine.speculation, len(answers)
        if speculation is None:
            return
        most = MOST_ROWS
        if even and count > 1:
            most = speculation.costs.rows_for(SLOWER * speculation.costs.together(count))
        room = max(min(most - count, free), 0)
        if room and not speculation.is_known and self._promising(answers, speculation):
            speculation.know(self.measure)
        rows, empty = count, list[Running]()
        for one in answers:
            assert one.drafts is not None
            copied = one.drafts.copied(
                self._most(one, room), speculation.costs.in_batch(rows, count)
            )
            if not copied:
                empty.append(one)
            rows, room = rows + len(copied), room - len(copied)
        if self.draft is not None and room:
            self._ask(self.draft, empty, rows, room, count, speculation.costs, running, read)

    def _ask(
        self,
        draft: SharedDraft,
        answers: Sequence[Running],
        rows: int,
        room: int,
        count: int,
        costs: Costs,
        running: Collection[int],
        read: int | None,
    ) -> None:
        """Have the small model draft for those to whom it is worth it."""
        asked = list[tuple[Running, Wanted, Costs]]()
        for one in answers:
            assert one.drafts is not None
            at = costs.in_batch(rows, count)
            if size := one.drafts.wanted(self._most(one, room), at, draft.cost):
                asked.append((one, Wanted(one.sequence, one.drafts.lookup.tokens, size), at))
                rows, room = rows + size, room - size
        draft.draft([wanted for _, wanted, _ in asked], running, read)
        for one, wanted, at in asked:
            assert one.drafts is not None
            if wanted.drafted is not None:
                one.drafts.modelled(wanted.drafted, at, draft.cost)

    def _promising(self, answers: Sequence[Running], speculation: Speculation) -> bool:
        if self.draft is not None:
            return True
        costs = speculation.costs.in_batch(len(answers), len(answers))
        return any(
            one.drafts is not None and one.drafts.promising(self._most(one, MOST_ROWS), costs)
            for one in answers
        )

    def _most(self, one: Running, room: int) -> int:
        """How many drafted tokens it can have."""
        return min(room, one.answer.left - 1, self.engine.context_size - one.length)
