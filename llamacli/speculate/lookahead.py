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
from llamacli.errors import LlamacliError
from llamacli.speculate.costs import MOST_ROWS, Costs, learn_costs
from llamacli.speculate.drafts import DraftModel, Drafts


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

    def know(self, measure: Callable[[], Costs]) -> None:
        """Have the costs measured, this once."""
        self.costs, self.is_known = measure(), True
        self.learned(self.costs)


@dataclass
class Lookahead:
    """One answer's drafts. Without a speculation each token is evaluated as it comes.

    valid is Drafts'. evaluated counts the answer's tokens that were; the engine's cache may hold
    more until finish.
    """

    engine: Engine
    prompt: Sequence[int]
    speculation: Speculation | None
    valid: Callable[[Sequence[int]], int] = len
    evaluated: int = 0
    waiting: list[int] = field(default_factory=list)  # drafted, and not drawn yet
    row: int = 0
    drafts: Drafts = field(init=False)

    def __post_init__(self) -> None:
        self.drafts = Drafts(self.valid)
        if self.speculation is not None:
            self.drafts.lookup.extend(self.prompt)

    def advance(self, token: int, left: int) -> int:
        """The row of the logits after token, which was drawn; at most left more are wanted."""
        self.evaluated += 1
        if self.speculation is not None:
            self.drafts.lookup.extend((token,))
            if self.waiting and self.waiting[0] == token:
                del self.waiting[0]
                self.row += 1
                return self.row
            self._accept()
            self._keep(len(self.prompt) + self.evaluated - 1)
            self.waiting = list(self._draft(self.speculation, left))
        self.engine.decode_rows([token, *self.waiting])
        self.row = 0
        return self.row

    def finish(self) -> None:
        """Leave in the cache what was drawn and evaluated, not what was only drafted."""
        if self.speculation is not None:
            self._accept()
            if not self.engine.closed:
                self._keep(len(self.prompt) + self.evaluated)

    def _keep(self, count: int) -> None:
        if len(self.engine.tokens) > count:  # llama.cpp would look through all cells
            self.engine.keep(count)

    def _accept(self) -> None:
        """Keep account of the draft that has been checked."""
        self.drafts.accept(len(self.drafts.proposed) - len(self.waiting))
        self.waiting = []

    def _draft(self, speculation: Speculation, left: int) -> list[int]:
        """A draft; empty where none is worth it."""
        engine, drafts, model = self.engine, self.drafts, speculation.model
        room = engine.context_size - len(engine.tokens) - 1
        most = min(left, room, MOST_ROWS - 1, engine.settings.outputs - 1)
        if (
            not speculation.is_known
            and room >= MOST_ROWS
            and (model is not None or drafts.promising(most, speculation.costs))
        ):
            speculation.know(lambda: learn_costs(engine))
        if copied := drafts.copied(most, speculation.costs):
            return copied
        if model is not None and most > 0:
            costs, cost = speculation.costs, model.cost
            if size := drafts.wanted(most, costs, cost):
                try:
                    return drafts.modelled(model.draft(drafts.lookup.tokens, size), costs, cost)
                except LlamacliError:  # its cache can't grow, say: answers do without it
                    speculation.model = None
        return []
