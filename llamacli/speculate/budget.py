"""How long a draft pays: by how drafts of its kind were accepted, and by what checking costs.

Nothing here asks a clock: the same tokens give the same drafts, and so the same evaluations, on
the same machine. A seed repeats.
"""

from dataclasses import dataclass, field

from llamacli.speculate.costs import Costs

GAIN = 1.05  # what a draft must promise, in tokens a cost
CREDIT = 1.0  # what may be lost before anything was gained, in evaluations of one token
ALLOWANCE = 0.01  # what each token without a draft adds to it: at most a hundredth is lost
MOST_CREDIT = 16.0
WEIGHT = 2.0  # tokens that a kind's first estimate is worth
FADING = 0.97  # of what was seen, with each draft
FORGETTING = 0.995  # with each token for which no draft was worth it: it is tried again
SIZES = (1, 2, 3, 5, 7, 11, 15, 23, 31)
# The first estimate of a token's acceptance by how many tokens before it are the same, less than 3
# only where a text is being copied; and of a draft model's.
BY_LENGTH = ((17, 0.92), (9, 0.85), (5, 0.7), (3, 0.5), (2, 0.75), (1, 0.7), (0, 0.6))
OF_MODEL = 0.7


@dataclass
class Kind:
    """Drafts that are alike: how many of their tokens were accepted, and of how many tried."""

    first: float
    accepted: float = 0.0
    tried: float = 0.0

    @property
    def rate(self) -> float:
        """The share of a draft's tokens, one after the other, that is accepted; below 1."""
        rate = (self.accepted + WEIGHT * self.first) / (self.tried + WEIGHT)
        return min(rate, 0.99)

    def saw(self, accepted: int, drafted: int) -> None:
        """A draft of which so many were accepted; after the first wrong one none was tried."""
        self.accepted = self.accepted * FADING + accepted
        self.tried = self.tried * FADING + min(accepted + 1, drafted)

    def forget(self) -> None:
        self.accepted *= FORGETTING
        self.tried *= FORGETTING


@dataclass
class Budget:
    """Chooses drafts' lengths for one answer, and keeps account of what they gained and cost."""

    balance: float = CREDIT
    kinds: dict[float, Kind] = field(default_factory=dict)

    def kind(self, first: float) -> Kind:
        return self.kinds.setdefault(first, Kind(first))

    def length(self, kind: Kind, most: int, costs: Costs, drafting: float = 0.0) -> int:
        """How many tokens to draft, at most that many; 0 where none is worth it.

        costs are those of checking them, drafting is what drafting a token costs.
        """
        best, gain = 0, GAIN
        for size in SIZES:
            if size > most:
                break
            cost = costs.of(size + 1) + drafting * size
            promise = (1 - kind.rate ** (size + 1)) / (1 - kind.rate) / cost
            if promise > gain and cost - 1 <= self.balance:
                best, gain = size, promise
        if not best and most:
            kind.forget()
        return best

    def saw(self, kind: Kind, accepted: int, drafted: int, cost: float) -> None:
        """What came of a draft; cost is that of drafting and checking it."""
        kind.saw(accepted, drafted)
        self.balance = min(self.balance + accepted + 1 - cost, MOST_CREDIT)

    def gave_up(self, kind: Kind, drafting: float) -> None:
        """A model that was asked had nothing likely to draft."""
        kind.saw(0, 1)
        self.balance -= drafting

    def saw_plain(self) -> None:
        self.balance = min(self.balance + ALLOWANCE, MOST_CREDIT)


def first_rate(same: int) -> float:
    """The first estimate for a copied draft after that many equal tokens."""
    return next((rate for length, rate in BY_LENGTH if same >= length), 0.0)
