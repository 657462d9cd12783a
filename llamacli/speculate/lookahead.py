"""Decoding with drafts: one evaluation checks several tokens, and the answer stays the model's.

The sampler draws each token from the logits that the model computes for its place, as without
drafts; a drafted token that is the one drawn makes its evaluation spare, any other ends the draft.
That is rejection sampling with a proposal that is certain: a drafted token x is accepted with the
model's own probability p(x), and where it isn't, the one drawn has p's distribution without x
(Leviathan et al. 2023, "Fast Inference from Transformers via Speculative Decoding"). So nothing
has to know of a draft: not the penalties, nor a grammar, nor the stops, nor the seed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from llamacli.engine import Engine
from llamacli.speculate.budget import OF_MODEL, Budget, Kind, first_rate
from llamacli.speculate.costs import MOST_ROWS, Costs, learn_costs
from llamacli.speculate.draft import DraftModel
from llamacli.speculate.lookup import Drafted, Lookup


@dataclass
class Speculation:
    """How an engine's answers are speculated: what checking costs, and a model that drafts.

    costs are a guess until is_known; they are then measured before the first draft, and learned
    gets them.
    """

    costs: Costs
    model: DraftModel | None = None
    is_known: bool = True
    learned: Callable[[Costs], None] = lambda _: None


@dataclass
class Lookahead:
    """One answer's drafts. Without a speculation each token is evaluated as it comes.

    valid says how many of a draft's tokens, the first ones, the answer may have at all.
    evaluated counts the answer's tokens that were; the engine's cache may hold more until finish.
    """

    engine: Engine
    prompt: Sequence[int]
    speculation: Speculation | None
    valid: Callable[[Sequence[int]], int] = len
    drafted: Drafted = field(default_factory=Drafted)
    evaluated: int = 0
    waiting: list[int] = field(default_factory=list)  # drafted, and not drawn yet
    row: int = -1
    lookup: Lookup = field(default_factory=Lookup)
    budget: Budget | None = None
    kind: Kind | None = None
    size: int = 0  # of the draft that is being checked
    drafting: float = 0.0

    def __post_init__(self) -> None:
        if self.speculation is not None:
            self.lookup.extend(self.prompt)
            self.budget = Budget(self.speculation.costs)

    def advance(self, token: int, left: int) -> int:
        """The row of the logits after token, which was drawn; at most left more are wanted."""
        self.evaluated += 1
        if self.budget is None:
            self.engine.decode(token)
            return -1
        self.lookup.extend((token,))
        if self.waiting and self.waiting[0] == token:
            del self.waiting[0]
            self.row += 1
            return self.row
        self._settle()
        self._keep(len(self.prompt) + self.evaluated - 1)
        self.waiting = self._draft(self.budget, left)
        if self.waiting:
            self.engine.decode_rows([token, *self.waiting])
            self.drafted.evaluations += 1
            self.drafted.tokens += self.size
            self.row = 0
        else:
            self.engine.decode(token)
            self.row = -1
        return self.row

    def finish(self) -> None:
        """Leave in the cache what was drawn and evaluated, not what was only drafted."""
        if self.budget is not None:
            self._settle()
            if not self.engine.closed:
                self._keep(len(self.prompt) + self.evaluated)

    def _keep(self, count: int) -> None:
        if len(self.engine.tokens) > count:  # llama.cpp would look through all cells
            self.engine.keep(count)

    def _settle(self) -> None:
        """Keep account of the draft that has been checked."""
        assert self.budget is not None
        if self.kind is None:
            self.budget.saw_plain()
            return
        accepted = self.size - len(self.waiting)
        self.drafted.accepted += accepted
        self.budget.saw(self.kind, accepted, self.size, self.drafting)
        self.waiting, self.kind = [], None

    def _draft(self, budget: Budget, left: int) -> list[int]:
        """A draft, and what it is set down for; empty where none is worth it."""
        engine, speculation = self.engine, self.speculation
        model = speculation.model if speculation is not None else None
        room = engine.context_size - len(engine.tokens) - 1
        most = min(left, room, MOST_ROWS - 1, engine.settings.outputs - 1)
        copied, same = self.lookup.draft(max(most, 0))
        copied = copied[: self.valid(copied)] if copied else copied
        if speculation is not None and not speculation.is_known and room >= MOST_ROWS:
            promising = budget.length(budget.kind(first_rate(same)), len(copied))
            if promising or model is not None:
                speculation.costs = budget.costs = learn_costs(engine)
                speculation.is_known = True
                speculation.learned(speculation.costs)
        if copied:
            kind = budget.kind(first_rate(same))
            if size := budget.length(kind, len(copied)):
                return self._begin(kind, copied[:size], 0.0)
        if model is not None and most > 0:
            kind = budget.kind(OF_MODEL)
            if size := budget.length(kind, most, model.cost):
                drafted = model.draft(self.lookup.tokens, size)
                drafted = drafted[: self.valid(drafted)] if drafted else drafted
                if drafted:
                    return self._begin(kind, drafted, model.cost)
                budget.gave_up(kind, model.cost)
        return []

    def _begin(self, kind: Kind, drafted: list[int], drafting: float) -> list[int]:
        self.kind, self.size, self.drafting = kind, len(drafted), drafting
        return drafted
