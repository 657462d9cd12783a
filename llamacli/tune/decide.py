"""Which settings are most likely best, estimated from measurements alone.

Candidates are measured in rounds, one after the other, so that what slows the machine for a while
slows them all. Two are compared by the logarithms of their times' ratios in the rounds that have
both: the mean, shrunk towards no difference by what settings usually make (10%) and by how much
the rounds waver (3% before anything is known). So a few noisy rounds say little, many alike much,
and neither has to refuse a verdict.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llamacli.tune.measure import Sample

LEAST_ROUNDS = 2  # before one is left out
USUAL = 0.1  # standard deviation of differences between settings, as logarithms
NOISE, NOISE_ROUNDS = 0.03, 2  # that of rounds, and the rounds that this first guess is worth
MATTERS = 0.005  # a difference below it isn't worth another setting, nor another round
ONE_SIDED = 1.645  # 95% of a normal distribution

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


def estimate(rounds: Rounds, work: Work, one: str, other: str) -> tuple[float, float]:
    """The logarithm of one's time over other's, and how sure that is: its standard deviation.

    The posterior of a normal mean with a normal prior around no difference.
    """
    logs = [
        math.log(work.seconds(samples[one]) / work.seconds(samples[other]))
        for samples in rounds
        if one in samples and other in samples
    ]
    if not logs:
        return 0.0, USUAL
    mean = statistics.fmean(logs)
    squares = NOISE_ROUNDS * NOISE**2 + sum((value - mean) ** 2 for value in logs)
    variance = squares / (NOISE_ROUNDS + len(logs) - 1) / len(logs)
    trust = USUAL**2 / (USUAL**2 + variance)
    return trust * mean, math.sqrt(trust * variance)


def fastest(rounds: Rounds, work: Work) -> str:
    """The candidate with the lowest median time, of those in the last round."""

    def median(name: str) -> float:
        return statistics.median(work.seconds(s[name]) for s in rounds if name in s)

    return min(rounds[-1], key=median)


def in_the_running(rounds: Rounds, works: Sequence[Work]) -> list[str]:
    """The last round's candidates that may still be the best by more than doesn't matter.

    The leader of each work, and those that may beat it with more than one chance in twenty.
    """
    if len(rounds) < LEAST_ROUNDS:
        return list(rounds[-1])
    kept = set()
    for work in works:
        leader = fastest(rounds, work)
        kept.add(leader)
        for name in rounds[-1]:
            slower, unsure = estimate(rounds, work, name, leader)
            if slower - ONE_SIDED * unsure < -MATTERS:
                kept.add(name)
    return [name for name in rounds[-1] if name in kept]


def winner(rounds: Rounds, work: Work, default: str) -> str:
    """The candidate that is most likely the fastest; the default where that doesn't matter."""
    leader = fastest(rounds, work)
    names = dict.fromkeys(name for samples in rounds for name in samples)
    ratios = {name: estimate(rounds, work, name, leader)[0] for name in names}
    best = min(ratios, key=ratios.__getitem__)
    if default not in names:
        return best
    return best if estimate(rounds, work, best, default)[0] < -MATTERS else default
