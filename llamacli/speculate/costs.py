"""What evaluating several tokens at once costs, in evaluations of one."""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass

MOST_ROWS = 32  # tokens that are checked at once
# Measured where little was to be had: a processor of 2 cores with AVX2 and a 1B model, an H200 and
# an 8B model (docs/performance.md). `llamacli tune` measures a machine's and model's own.
ON_CPU = {1: 1.0, 2: 1.6, 4: 2.5, 8: 5.1, 16: 6.1, 64: 20.8}
ON_GPU = {1: 1.0, 2: 1.2, 4: 1.5, 16: 2.2, 64: 3.7}


@dataclass(frozen=True)
class Costs:
    """known has the cost of so many tokens; 1 costs 1. What lies between is interpolated."""

    known: Mapping[int, float]

    def of(self, tokens: int) -> float:
        """The cost of evaluating that many tokens at once."""
        sizes = sorted(self.known)
        at = min(max(bisect_left(sizes, tokens), 1), len(sizes) - 1)
        low, high = sizes[at - 1], sizes[at]
        share = (tokens - low) / (high - low)
        return self.known[low] + share * (self.known[high] - self.known[low])


def default_costs(*, gpu: bool) -> Costs:
    """Where nothing was measured; for all layers on a GPU, or for others."""
    return Costs(ON_GPU if gpu else ON_CPU)
