"""Which settings win, decided from measurements alone.

Candidates are measured in rounds, one after the other, so that what slows the machine for a while
slows them all. Two are compared by the logarithms of their times' ratios in the rounds that have
both. One is clearly slower where it is so by more than 2%, by Student's one-sided paired test at
95%. Fewer than three rounds decide nothing.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llamacli.tune.measure import Sample

LEAST_ROUNDS = 3
QUANTILES = {3: 2.920, 4: 2.353, 5: 2.132, 6: 2.015}  # Student's t at 95%, by rounds
MARGIN = 1.02

Rounds = Sequence[Mapping[str, Sample]]


@dataclass(frozen=True)
class Work:
    """A use of a model: how often it is loaded, tokens read in bulk, tokens decoded."""

    loads: int = 0
    prompt: int = 0
    answer: int = 0

    def seconds(self, sample: Sample) -> float:
        """What it would take."""
        return self.loads * sample.load + self.prompt * sample.prefill + self.answer * sample.decode


def clearly_slower(rounds: Rounds, work: Work, one: str, other: str) -> bool:
    """Whether one takes longer than other for the work, beyond doubt and by more than 2%."""
    logs = [
        math.log(work.seconds(samples[one]) / work.seconds(samples[other]))
        for samples in rounds
        if one in samples and other in samples
    ]
    if len(logs) < LEAST_ROUNDS:
        return False
    error = statistics.stdev(logs) / math.sqrt(len(logs))
    bound = statistics.fmean(logs) - QUANTILES.get(len(logs), 2.0) * error
    return bound > math.log(MARGIN)


def fastest(rounds: Rounds, work: Work) -> str:
    """The candidate with the lowest median time, of those in the last round."""

    def median(name: str) -> float:
        return statistics.median(work.seconds(s[name]) for s in rounds if name in s)

    return min(rounds[-1], key=median)


def in_the_running(rounds: Rounds, works: Sequence[Work]) -> list[str]:
    """The last round's candidates without those clearly slower than another for every work."""
    leaders = [fastest(rounds, work) for work in works]
    return [
        name
        for name in rounds[-1]
        if not all(
            clearly_slower(rounds, work, name, leader)
            for work, leader in zip(works, leaders, strict=True)
        )
    ]


def winner(rounds: Rounds, work: Work, default: str) -> str:
    """The fastest for the work, where the default is clearly slower; else the default."""
    best = fastest(rounds, work)
    if default in rounds[0] and not clearly_slower(rounds, work, default, best):
        return default
    return best
