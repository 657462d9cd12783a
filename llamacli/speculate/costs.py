"""How long a draft pays: by what evaluating several tokens at once costs, in evaluations of one,
and by how drafts of its kind were accepted.

No length is chosen by a clock: the same tokens give the same drafts, and so the same evaluations,
on the same machine. A seed repeats.
"""

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from time import perf_counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llamacli.engine import Engine


MOST_ROWS = 32  # tokens that are checked at once
LEARNED = (1, 2, 4, 8, 16)  # sizes that are measured before a first draft
PATIENCE = 1.5  # seconds; where measuring takes longer, once must do
# By which a first draft is thought of where nothing was measured: a processor of 2 cores with AVX2
# and a 1B model, an H200 that has all layers of an 8B model.
ON_CPU = {1: 1.0, 2: 1.6, 4: 2.5, 8: 5.1, 16: 6.1, 64: 20.8}
ON_GPU = {1: 1.0, 2: 1.2, 4: 1.5, 16: 2.2, 64: 3.7}

GAIN = 1.05  # what a draft must promise, in tokens a cost
CREDIT = 1.0  # what may be lost before anything was gained, in evaluations of one token
ALLOWANCE = 0.01  # what each token without a draft adds to it: about a hundredth is lost at most
MOST_CREDIT = 16.0
# What a token adds that was foretold rightly and not drafted, up to so much: a copy that has begun
# waits for no more. By bench.foreseen's texts and bench.speculation's.
REGAINED, MOST_REGAINED = 0.1, 0.5
RISK = 0.03  # that a draft may always have: what it loses where it is wrong, times how likely
OVERDRAFT = 2.0  # what a draft that is likely right may lose beyond the credit
WEIGHT = 4.0  # tokens that a kind's first estimate is worth
FADING = 0.98  # of what was seen, with each token
FORGETTING = 0.995  # with each token for which no model was asked: it is tried again
SIZES = (1, 2, 3, 5, 7, 11, 15, 19, 23, 27, 31)
# The first estimate of a token's acceptance by how many tokens before it are the same, less than 3
# only where a text is being copied; and of a draft model's.
BY_LENGTH = (
    *((65, 0.98), (33, 0.96), (17, 0.93), (9, 0.85), (5, 0.7)),
    *((3, 0.5), (2, 0.5), (1, 0.4), (0, 0.3)),
)
OF_MODEL = 0.7


@dataclass(frozen=True)
class Costs:
    """known has the cost of so many tokens; 1 costs 1. What lies between is interpolated.

    An answer's token may be evaluated beside other tokens, rows with its own, so that answers
    answers grow by one: a token of a draft then costs what it adds, in the answers' tokens that
    could have been had for it.
    """

    known: Mapping[int, float]
    rows: int = 1
    answers: int = 1

    def of(self, tokens: int) -> float:
        """The cost of evaluating an answer's next token and that many less one of its draft."""
        if self.rows == 1:
            return self.together(tokens)
        beside = self.together(self.rows)
        added = self.together(self.rows + tokens - 1) - beside
        return 1 + added * self.answers / beside

    def in_batch(self, rows: int, answers: int) -> "Costs":
        """Those of a draft in a batch that has so many rows already, by so many answers."""
        return replace(self, rows=rows, answers=answers)

    def rows_for(self, cost: float) -> int:
        """How many tokens at once cost at most that; at least 1."""
        fitting = (rows for rows in range(MOST_ROWS, 1, -1) if self.together(rows) <= cost)
        return next(fitting, 1)

    def together(self, tokens: int) -> float:
        """The cost of evaluating that many tokens at once."""
        sizes = sorted(self.known)
        at = min(max(bisect_left(sizes, tokens), 1), len(sizes) - 1)
        low, high = sizes[at - 1], sizes[at]
        share = (tokens - low) / (high - low)
        return self.known[low] + share * (self.known[high] - self.known[low])


def learn_costs(engine: "Engine", rounds: int = 2, patience: float = PATIENCE) -> Costs:
    """Measure them where the engine's cache ends, which stays as it is; the logits don't."""
    held = len(engine.tokens)

    def evaluate(size: int) -> None:
        engine.decode_rows([0] * size)
        engine.logit(0, size - 1)  # waits for a device that computes on its own
        engine.keep(held)

    return measured_costs(evaluate, rounds, patience)


def measured_costs(
    evaluate: Callable[[int], None], rounds: int = 2, patience: float = PATIENCE
) -> Costs:
    """By a function that evaluates so many tokens at once and waits for them.

    At most so many rounds, none begins after so many seconds: by default some thirty evaluations'
    time, half of it where those are slow.
    """
    least = dict.fromkeys(LEARNED, float("inf"))
    begun = perf_counter()
    for _ in range(rounds):
        for size in LEARNED:
            started = perf_counter()
            evaluate(size)
            least[size] = min(least[size], perf_counter() - started)
        if perf_counter() - begun > patience:
            break
    rising = accumulate(least.values(), max)
    known = {size: seconds / least[1] for size, seconds in zip(LEARNED, rising, strict=True)}
    fastest = Costs(ON_GPU)  # what is below it was measured on a machine that did something else
    return Costs({size: round(max(cost, fastest.of(size)), 2) for size, cost in known.items()})


@dataclass
class Kind:
    """Tokens that are foretold alike: how many were right, and of how many that were drawn."""

    first: float
    right: float = 0.0
    seen: float = 0.0

    @property
    def rate(self) -> float:
        """The share that is right; below 1."""
        rate = (self.right + WEIGHT * self.first) / (self.seen + WEIGHT)
        return min(rate, 0.99)

    def saw(self, right: bool) -> None:
        self.right = self.right * FADING + right
        self.seen = self.seen * FADING + 1

    def forget(self) -> None:
        self.right *= FORGETTING
        self.seen *= FORGETTING


@dataclass
class Budget:
    """Chooses drafts' lengths for one answer, and keeps account of what they gained and cost."""

    balance: float = CREDIT
    model: Kind = field(default_factory=lambda: Kind(OF_MODEL))
    copied: dict[int, Kind] = field(
        default_factory=lambda: {least: Kind(first) for least, first in BY_LENGTH}
    )

    def kinds(self, same: int, count: int) -> list[Kind]:
        """Those of so many copied tokens in a row, the first of them after same equal ones."""
        at = next(i for i, (least, _) in enumerate(BY_LENGTH) if same >= least)
        kinds = []
        for length in range(same, same + count):
            if at and length >= BY_LENGTH[at - 1][0]:
                at -= 1
            kinds.append(self.copied[BY_LENGTH[at][0]])
        return kinds

    def length(self, kinds: Sequence[Kind], costs: Costs, drafting: float = 0.0) -> int:
        """How many tokens to draft, of so many, each of its kind; 0 where none is worth it.

        costs are those of checking them, drafting is what drafting a token costs.
        """
        best, gain = 0, GAIN
        right, tokens, size = 1.0, 1.0, 0
        for size_wanted in SIZES:
            if size_wanted > len(kinds):
                break
            for kind in kinds[size:size_wanted]:
                right *= kind.rate
                tokens += right
            size = size_wanted
            cost = costs.of(size + 1) + drafting * size
            if tokens / cost > gain and self._allows(cost - 1, 1 - kinds[0].rate):
                best, gain = size, tokens / cost
        return best

    def saw(self, kinds: Sequence[Kind], accepted: int, cost: float) -> None:
        """What came of a draft; cost is that of drafting and checking it."""
        for number, kind in enumerate(kinds[: accepted + 1]):  # none is drawn after a wrong one
            kind.saw(number < accepted)
        self.balance = min(self.balance + accepted + 1 - cost, MOST_CREDIT)

    def saw_foretold(self, kind: Kind, right: bool) -> None:
        """What came of a token that was foretold and not drafted, which cost nothing."""
        kind.saw(right)
        if right:
            self.balance = max(self.balance, min(self.balance + REGAINED, MOST_REGAINED))

    def gave_up(self, drafting: float) -> None:
        """A model that was asked had nothing likely to draft."""
        self.model.saw(False)
        self.balance -= drafting

    def saw_plain(self) -> None:
        self.balance = min(self.balance + ALLOWANCE, MOST_CREDIT)

    def _allows(self, loss: float, wrong: float) -> bool:
        """Whether a draft may lose that much, which it does with that probability."""
        credit = max(self.balance, 0.0)
        return loss <= credit + OVERDRAFT and loss * wrong <= credit + RISK
