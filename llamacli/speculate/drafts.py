"""One answer's drafts: what is proposed after its tokens so far, copied or by a small model of the
same vocabulary, and what came of it.

Nothing is checked here: a loop over one answer does that, or a scheduler of many.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llamacli.engine import Engine
from llamacli.errors import UsageError
from llamacli.gguf import GGUFFile
from llamacli.speculate.costs import Budget, Costs, Kind
from llamacli.speculate.lookup import Drafted, Lookup

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TOKENS = "tokenizer.ggml.tokens"
LEAST_PROBABILITY = 0.4  # of a drafted token; a less likely one ends the draft


@dataclass
class Drafts:
    """valid says how many of a draft's tokens, the first ones, the answer may have at all.

    lookup gets the answer's tokens as they come. A proposal replaces one that none was accepted of.
    """

    valid: Callable[[Sequence[int]], int] = len
    lookup: Lookup = field(default_factory=Lookup)
    budget: Budget = field(default_factory=Budget)
    drafted: Drafted = field(default_factory=Drafted)
    proposed: list[int] = field(default_factory=list)
    kinds: list[Kind] = field(default_factory=list)  # of the proposed tokens
    cost: float = 0.0  # of drafting and checking what is proposed
    foretold: tuple[int, int, Kind] | None = None  # a token that wasn't worth it: where, which

    def promising(self, most: int, costs: Costs) -> bool:
        """Whether something is there to be copied that seems to pay."""
        found, same = self._copy(most)
        return bool(self.budget.length(self.budget.kinds(same, len(found)), costs))

    def copied(self, most: int, costs: Costs) -> list[int]:
        """What can be copied, at most so many tokens; empty where none is worth it."""
        self._look_back()
        self.kinds, self.proposed = [], []
        found, same = self._copy(most)
        if found:
            kinds = self.budget.kinds(same, len(found))
            if size := self.budget.length(kinds, costs):
                self._propose(kinds[:size], found[:size], costs, 0.0)
            else:
                self.foretold = len(self.lookup.tokens), found[0], kinds[0]
        return self.proposed

    def wanted(self, most: int, costs: Costs, drafting: float) -> int:
        """How many tokens a model should draft, at drafting each; 0 where none is worth it."""
        size = self.budget.length([self.budget.model] * most, costs, drafting)
        if not size and most:
            self.budget.model.forget()
        return size

    def modelled(self, tokens: list[int], costs: Costs, drafting: float) -> list[int]:
        """What a model that was asked has drafted, as far as it is valid."""
        self.kinds, self.proposed = [], []
        if tokens := self._allowed(tokens):
            self._propose([self.budget.model] * len(tokens), tokens, costs, drafting)
        else:
            self.budget.gave_up(drafting)
        return self.proposed

    def accept(self, accepted: int) -> None:
        """An evaluation is over, with so many of the proposed tokens accepted."""
        if not self.proposed:
            self.budget.saw_plain()
            return
        self.drafted.evaluations += 1
        self.drafted.tokens += len(self.proposed)
        self.drafted.accepted += accepted
        self.budget.saw(self.kinds, accepted, self.cost)
        self.kinds, self.proposed = [], []

    def _look_back(self) -> None:
        """Learn from a token that was foretold and not drafted: that costs nothing."""
        if self.foretold is not None:
            place, token, kind = self.foretold
            if place < len(self.lookup.tokens):
                kind.saw(self.lookup.tokens[place] == token)
            self.foretold = None

    def _copy(self, most: int) -> tuple[list[int], int]:
        if most < 1:
            return [], 0
        found, same = self.lookup.draft(most)
        return self._allowed(found), same

    def _allowed(self, tokens: list[int]) -> list[int]:
        return tokens[: self.valid(tokens)] if tokens else tokens

    def _propose(self, kinds: list[Kind], tokens: list[int], costs: Costs, drafting: float) -> None:
        self.kinds, self.proposed = kinds, tokens
        self.cost = costs.of(len(tokens) + 1) + drafting * len(tokens)


@dataclass
class DraftModel:
    """cost is that of drafting a token, in evaluations of one by the model that checks them."""

    engine: Engine
    cost: float

    def draft(self, tokens: Sequence[int], most: int) -> list[int]:
        """The likeliest tokens after those, one after the other, as long as they are likely."""
        drafted: list[int] = []
        most = min(most, self.engine.context_size - len(tokens))
        if most < 1:
            return drafted
        self.engine.prefill(tokens)
        while True:
            token = likely_token(self.engine.logits())
            if token is None:
                return drafted
            drafted.append(token)
            if len(drafted) == most or token in self.engine.vocabulary.end_tokens:
                return drafted
            self.engine.decode(token)


def likely_token(logits: "NDArray[np.float32]") -> int | None:
    """The likeliest token by logits of shape (vocabulary,), None where it is unlikely, too."""
    import numpy as np

    token = int(logits.argmax())
    probability = 1 / float(np.exp(logits - logits[token]).sum())
    return token if probability >= LEAST_PROBABILITY else None


def drafting_cost(draft: GGUFFile, checked: GGUFFile) -> float:
    """Decoding reads all weights: as one file's to the other's."""
    return draft.weights_nbytes / checked.weights_nbytes


def check_same_tokens(draft: GGUFFile, checked: GGUFFile) -> None:
    """Compare two vocabularies token by token. Raises UsageError naming the first difference."""
    if draft.raw(TOKENS) == checked.raw(TOKENS):
        return
    theirs, ours = draft.strings(TOKENS), checked.strings(TOKENS)
    at = next((i for i, (a, b) in enumerate(zip(theirs, ours, strict=False)) if a != b), None)
    told = (
        f"one has {len(theirs)} tokens, the other {len(ours)}"
        if at is None
        else f"token {at} is {theirs[at]!r} in one and {ours[at]!r} in the other"
    )
    raise UsageError(
        f"{draft.path.name} can't draft for {checked.path.name}: {told}; "
        "a draft model needs the same vocabulary"
    )
