"""Which answers of a batch get drafts, and of how many tokens, as far as that pays for all; and a
small model that drafts for several side by side."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from llamacli.batch.engine import BatchEngine
from llamacli.batch.job import Running
from llamacli.batch.pace import Pace
from llamacli.engine import Part, common_prefix
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
            if self.engine.evaluate():  # begin anew the next time
                for number in self.held:
                    self.engine.drop(number)
                self.held.clear()
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


@dataclass
class Proposals:
    """Proposes for an engine's answers.

    running are all that are answered, which wait for each other where there is a pace. measure has
    the costs of checking measured where they aren't known.
    """

    engine: BatchEngine
    running: Sequence[Running]
    pace: Pace | None
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
        constraint = running.answer.constraint
        running.drafts = Drafts(constraint.valid if constraint is not None else len)
        running.drafts.lookup.extend(running.tokens)

    def propose(self, batch: Sequence[Running], speculation: Speculation) -> None:
        """Give each of a batch's answers what is drafted for it: nothing where a prompt is read.

        No step takes much longer than those who wait for it would without drafts.
        """
        answers = [(one, one.drafts) for one in batch if one.drafts is not None]
        rows = count = len(answers)
        most, read = MOST_ROWS, None
        if self.pace is not None and count > 1:
            most = speculation.costs.rows_for(SLOWER * speculation.costs.together(count))
            read = self.pace.most()
        free = self.engine.cells - sum(len(one.tokens) for one in self.running)
        if any(one.left > 1 or one.prefilled is None for one in self.running):
            free = 0
        room = max(min(most - count, free), 0)
        if room and not speculation.is_known and self._promising(answers, speculation.costs):
            speculation.know(self.measure)
        costs, asked = speculation.costs, list[tuple[Drafts, Wanted, Costs]]()
        for one, drafts in answers:
            copied = drafts.copied(self._most(one, room), costs.in_batch(rows, count))
            rows, room = rows + len(copied), room - len(copied)
        if self.draft is None or not room:
            return
        for one, drafts in answers:
            at, cost = costs.in_batch(rows, count), self.draft.cost
            if not drafts.proposed and (size := drafts.wanted(self._most(one, room), at, cost)):
                asked.append((drafts, Wanted(one.sequence, one.tokens, size), at))
                rows, room = rows + size, room - size
        running = {one.sequence for one in self.running}
        self.draft.draft([wanted for _, wanted, _ in asked], running, read)
        for drafts, wanted, at in asked:
            if wanted.drafted is not None:
                drafts.modelled(wanted.drafted, at, self.draft.cost)

    def _promising(self, answers: Sequence[tuple[Running, Drafts]], costs: Costs) -> bool:
        """Whether a draft is thought of."""
        at = costs.in_batch(len(answers), len(answers))
        return self.draft is not None or any(
            drafts.promising(self._most(one, MOST_ROWS), at) for one, drafts in answers
        )

    def _most(self, one: Running, room: int) -> int:
        """How many drafted tokens it can have."""
        return min(room, one.answer.left - 1, self.engine.context_size - len(one.tokens))
