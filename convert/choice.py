"""Types for a model's matrices under a limit of bytes, so that the sum of their costs is least."""

import heapq
from bisect import bisect_right
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
    few bytes. What a step that didn't fit has left is mended by exchanges. Raises ValueError where
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
    best = [hull[place] for hull, place in zip(hulls, chosen, strict=True)]
    return _improved(options, best, left)


def _improved(options: Sequence[Sequence[Option]], chosen: list[Option], left: int) -> list[Option]:
    """Better by single changes and by pairs of them: one matrix up for the bytes of another.

    Each time the one that saves the most, until none saves anything.
    """
    least = 1e-9 * sum(option.cost for option in chosen)
    while True:
        smaller = _Smaller(options, chosen)
        best, changes = least, list[tuple[int, Option]]()
        for number, (now, each) in enumerate(zip(chosen, options, strict=True)):
            for other in each:
                saved, together = now.cost - other.cost, [(number, other)]
                if saved <= 0:
                    continue
                if (needed := other.nbytes - now.nbytes - left) > 0:
                    if (pair := smaller.cheapest(needed, number)) is None:
                        continue
                    saved, together = saved - pair[0], [*together, pair[1:]]
                if saved > best:
                    best, changes = saved, together
        if not changes:
            return chosen
        for place, option in changes:
            left += chosen[place].nbytes - option.nbytes
            chosen[place] = option


class _Smaller:
    """All changes to smaller options, to be asked for the one that costs the least."""

    def __init__(self, options: Sequence[Sequence[Option]], chosen: Sequence[Option]) -> None:
        every = sorted(
            (
                (now.nbytes - other.nbytes, other.cost - now.cost, number, other)
                for number, (now, each) in enumerate(zip(chosen, options, strict=True))
                for other in each
                if other.nbytes < now.nbytes
            ),
            key=lambda change: (-change[0], change[1], change[2]),
        )
        self._saved = [-saved for saved, *_ in every]
        self._best: list[list[tuple[float, int, Option]]] = []  # two, of different matrices
        two: list[tuple[float, int, Option]] = []
        for _, cost, number, other in every:
            others = [one for one in two if one[1] != number]
            own = [one for one in two if one[1] == number]
            cheapest = min([*own, (cost, number, other)], key=lambda one: one[0])
            two = sorted([*others, cheapest], key=lambda one: one[:2])[:2]
            self._best.append(two)

    def cheapest(self, nbytes: int, excluded: int) -> tuple[float, int, Option] | None:
        """The change that saves so many bytes or more for the least cost, of another matrix."""
        end = bisect_right(self._saved, -nbytes)
        two = self._best[end - 1] if end else []
        return next((one for one in two if one[1] != excluded), None)


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
