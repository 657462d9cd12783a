"""One answer's drafts: what is proposed after its tokens so far, copied or by a small model of the
same vocabulary, and what came of it.

Nothing is checked here: a loop over one answer does that, or a scheduler of many.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llamacli.errors import UsageError
from llamacli.speculate.costs import Budget, Costs, Kind

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from llamacli.engine import Engine
    from llamacli.gguf import GGUFFile


LEAST = 3  # tokens that must be the same; shorter ones are chance
LONGEST = 80  # that are compared
PLACES = 8  # the latest ones of the same LEAST tokens that are compared
SURE = 9  # equal tokens from which on a text counts as copied, be some of its tokens others
NEAR = 8  # tokens around where the copied text should go on that one in common is looked for
MOST_OTHER = 4  # tokens in a row that are others, after which it isn't copied any more
TOKENS = "tokenizer.ggml.tokens"
LEAST_PROBABILITY = 0.4  # of a drafted token; a less likely one ends the draft


@dataclass
class Drafted:
    """What drafting came to: evaluations, tokens drafted and accepted."""

    evaluations: int = 0
    tokens: int = 0
    accepted: int = 0


@dataclass
class Lookup:
    """tokens so far; places has where each LEAST of them in a row end, the latest ones.

    copied is where the next token should be found in the text that is copied, -1 where none is;
    other is how many tokens in a row weren't those found there.
    """

    tokens: list[int] = field(default_factory=list)
    places: dict[tuple[int, ...], list[int]] = field(default_factory=dict)
    copied: int = -1
    other: int = 0

    def extend(self, tokens: Iterable[int]) -> None:
        for token in tokens:
            if self.copied >= 0:
                self.other = 0 if self.tokens[self.copied] == token else self.other + 1
                self.copied = self.copied + 1 if self.other <= MOST_OTHER else -1
            self.tokens.append(token)
            end = len(self.tokens)
            if end >= LEAST:
                ends = self.places.setdefault(tuple(self.tokens[end - LEAST :]), [])
                ends.append(end)
                if len(ends) > PLACES + 1:
                    del ends[0]

    def draft(self, most: int) -> tuple[list[int], int]:
        """(at most that many tokens, how many before them are the same here and there).

        They are what followed the latest of the longest equal stretches; where that is the end
        itself, it is repeated. Where a text is being copied, with a word or so changed, they are
        what follows there, be less than LEAST the same or more elsewhere.
        """
        tokens, end = self.tokens, len(self.tokens)
        best, same = 0, 0
        for place in reversed(self.places.get(tuple(tokens[end - LEAST :]), ())):
            if place == end:
                continue
            length = LEAST
            while length < min(LONGEST, place) and (
                tokens[place - 1 - length] == tokens[end - 1 - length]
            ):
                length += 1
            if length > same or place == self.copied:
                best, same = place, length
                if same == LONGEST or place == self.copied:
                    break
        if same >= SURE:
            self.copied, self.other = best, 0
        elif not same:
            best, same = self._beyond_a_change()
            if best < 0:
                return [], 0
        drafted = tokens[best : best + most]
        while len(drafted) < most:
            drafted.append(drafted[len(drafted) - (end - best)])
        return drafted, same

    def _beyond_a_change(self) -> tuple[int, int]:
        """Where the copied text goes on, and how many tokens before are the same; -1 for nowhere.

        That is after the nearest two or one that are; else one token took another's place.
        """
        tokens, end, copied = self.tokens, len(self.tokens), self.copied
        if copied < 0:
            return -1, 0
        near = range(max(copied - NEAR, 2), min(copied + NEAR, end))
        nearest = sorted(near, key=lambda place: abs(place - copied))
        for same in (2, 1):
            for place in nearest:
                if tokens[place - same : place] == tokens[end - same : end]:
                    self.copied = place
                    return place, same
        return copied, 0


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
                self.budget.saw_foretold(kind, self.lookup.tokens[place] == token)
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

    engine: "Engine"
    cost: float

    def draft(self, tokens: Sequence[int], most: int) -> list[int]:
        """The likeliest tokens after those, one after the other, as long as they are likely."""
        drafted: list[int] = []
        most = min(most, self.engine.context_size - len(tokens))
        if most < 1:
            return drafted
        self.engine.prefill(tokens)
        if len(self.engine.tokens) < len(tokens):  # a signal has ended it
            return drafted
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


def drafting_cost(draft: "GGUFFile", checked: "GGUFFile") -> float:
    """Decoding reads all weights: as one file's to the other's."""
    return draft.weights_nbytes / checked.weights_nbytes


def check_same_tokens(draft: "GGUFFile", checked: "GGUFFile") -> None:
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
