"""Which answers of a batch get drafts, and of how many tokens: as far as that pays for all."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from llamacli.batch.engine import BatchEngine
from llamacli.batch.job import Running
from llamacli.batch.shared_draft import SharedDraft, Wanted
from llamacli.speculate import MOST_ROWS, Costs, Drafts, Speculation, drafting_cost

SLOWER = 2.0  # times a step without drafts, that one may take which others wait for


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
            copied = one.drafts.copied(self._most(one, room), speculation.costs.beside(rows, count))
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
            at = costs.beside(rows, count)
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
        costs = speculation.costs.beside(len(answers), len(answers))
        return any(
            one.drafts is not None and one.drafts.promising(self._most(one, MOST_ROWS), costs)
            for one in answers
        )

    def _most(self, one: Running, room: int) -> int:
        """How many drafted tokens it can have."""
        return min(room, one.answer.left - 1, self.engine.context_size - one.length)
