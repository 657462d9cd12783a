"""Types for a model's matrices under a limit of bytes, so that the sum of their costs is least."""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gguf import GGMLQuantizationType


@dataclass(frozen=True)
class Option:
    """A type that a matrix may have: the bytes it takes, and what its errors cost."""

    type: GGMLQuantizationType
    nbytes: int
    cost: float


def choose(options: Sequence[Sequence[Option]], limit: int) -> list[Option]:
    """One of the options of each matrix, within limit bytes together.

    From the smallest on, the step that saves the most cost a byte is taken, always among those on
    the lower convex hull of a matrix' options, as long as it fits: the optimum but for the last
    few bytes, which the most saving step that still fits gets in the end. Raises ValueError where
    the smallest are too large.
    """
    hulls = [list(_hull(each)) for each in options]
    chosen = [0] * len(hulls)
    left = limit - sum(hull[0].nbytes for hull in hulls)
    if left < 0:
        raise ValueError(f"{-left} bytes too few")
    steps = [step for number, hull in enumerate(hulls) if (step := _step(hull, 0, number))]
    heapq.heapify(steps)
    while steps:
        _, number, place = heapq.heappop(steps)
        hull = hulls[number]
        nbytes = hull[place].nbytes - hull[chosen[number]].nbytes
        if nbytes <= left:
            left -= nbytes
            chosen[number] = place
            if step := _step(hull, place, number):
                heapq.heappush(steps, step)
    return _filled(options, [hull[place] for hull, place in zip(hulls, chosen, strict=True)], left)


def _filled(options: Sequence[Sequence[Option]], chosen: list[Option], left: int) -> list[Option]:
    """The rest of the bytes given to whatever saves the most."""
    while True:
        steps = [
            (now.cost - other.cost, -number, other)
            for number, (now, each) in enumerate(zip(chosen, options, strict=True))
            for other in each
            if other.nbytes - now.nbytes <= left and other.cost < now.cost
        ]
        if not steps:
            return chosen
        _, number, other = max(steps, key=lambda step: step[:2])
        left -= other.nbytes - chosen[-number].nbytes
        chosen[-number] = other


def _hull(options: Sequence[Option]) -> Iterator[Option]:
    """The options on the lower convex hull of cost over bytes, the smallest first."""
    hull: list[Option] = []
    for option in sorted(options, key=lambda option: (option.nbytes, option.cost, option.type)):
        if hull and option.cost >= hull[-1].cost:
            continue
        while len(hull) > 1 and _slope(hull[-2], option) <= _slope(hull[-2], hull[-1]):
            hull.pop()
        hull.append(option)
    yield from hull


def _slope(small: Option, large: Option) -> float:
    return (large.cost - small.cost) / (large.nbytes - small.nbytes)


def _step(hull: Sequence[Option], place: int, number: int) -> tuple[float, int, int] | None:
    """What the step from a place on a hull saves a byte, negative, to be sorted by."""
    if place + 1 == len(hull):
        return None
    return _slope(hull[place], hull[place + 1]), number, place + 1
