"""Grammars of JSON numbers between bounds."""

import math
from dataclasses import dataclass

from llamacli.shape.grammar import Builder, Items, chars

DIGITS = 15  # of whole numbers; a double keeps that many exactly
FRACTION = 6  # digits behind the point of numbers with bounds, so that none is rounded onto them
MAX_BOUND = 10 ** (DIGITS - FRACTION)

DIGIT, NOT_ZERO = chars([(48, 57)]), chars([(49, 57)])


@dataclass(frozen=True)
class Interval:
    """Bounds of numbers; None is no bound, open leaves the bound itself out."""

    low: float | None = None
    high: float | None = None
    low_open: bool = False
    high_open: bool = False

    def negated(self) -> "Interval":
        low = None if self.high is None else -self.high
        high = None if self.low is None else -self.low
        return Interval(low, high, self.high_open, self.low_open)

    def from_zero(self) -> "Interval":
        if self.low is None or self.low < 0:
            return Interval(0, self.high, False, self.high_open)
        return self

    def whole(self) -> tuple[int | None, int | None]:
        """The least and the greatest whole number in it."""
        low = None if self.low is None else math.ceil(self.low)
        if low is not None and self.low_open and low == self.low:
            low += 1
        high = None if self.high is None else math.floor(self.high)
        if high is not None and self.high_open and high == self.high:
            high -= 1
        return low, high

    def has_negative(self) -> bool:
        return self.low is None or self.low < 0

    def has_positive(self) -> bool:
        return self.high is None or self.high > 0 or (self.high == 0 and not self.high_open)


def integers(builder: Builder, interval: Interval) -> list[Items]:
    """The ways to write an interval's whole numbers, of DIGITS digits at most; none may be left."""
    found: list[Items] = []
    if interval.has_positive():
        found += _naturals(builder, *interval.from_zero().whole())
    if interval.has_negative():
        low, high = interval.negated().from_zero().whole()
        minus = builder.text("-")
        found += [minus + items for items in _naturals(builder, max(low or 0, 1), high)]
    return found


def numbers(builder: Builder, interval: Interval) -> list[Items]:
    """The ways to write an interval's numbers: whole ones, and fractions of FRACTION digits."""
    found = integers(builder, interval)
    if interval.has_positive():
        found += _fractions(builder, interval.from_zero())
    if interval.has_negative():
        minus = builder.text("-")
        inner = _fractions(builder, interval.negated().from_zero())
        found += [minus + items for items in inner]
    return found


def _fractions(builder: Builder, interval: Interval) -> list[Items]:
    """Whole parts that any fraction may follow; an open low bound with a fraction that isn't 0."""
    low = math.ceil(interval.low or 0)
    high = None if interval.high is None else math.floor(interval.high) - 1
    point, found = builder.text("."), []
    if interval.low_open and low == interval.low:
        if high is None or low <= high:
            zeros = [builder.text("0" * n) for n in range(FRACTION)]
            more = [builder.repeat((DIGIT,), 0, FRACTION - 1 - n) for n in range(FRACTION)]
            above = [(*z, NOT_ZERO, *m) for z, m in zip(zeros, more, strict=True)]
            found.append(builder.text(str(low)) + point + builder.choice(above))
        low += 1
    fraction = point + builder.repeat((DIGIT,), 1, FRACTION)
    return found + [items + fraction for items in _naturals(builder, low, high)]


def _naturals(builder: Builder, low: int | None, high: int | None) -> list[Items]:
    """low to high in decimal without leading zeros, a way for each run of the same length."""
    low = low or 0
    top = 10**DIGITS - 1
    high = top if high is None else min(high, top)
    found = []
    for length in range(1, DIGITS + 1):
        first = max(low, 10 ** (length - 1) if length > 1 else 0)
        last = min(high, 10**length - 1)
        if first <= last:
            found += _same_length(builder, str(first), str(last))
    return found


def _same_length(builder: Builder, low: str, high: str) -> list[Items]:
    """Decimals between two of the same length."""
    if low == high:
        return [builder.text(low)]
    if len(low) == 1:
        return [(chars([(ord(low), ord(high))]),)]
    if low[0] == high[0]:
        rest = _same_length(builder, low[1:], high[1:])
        return [builder.text(low[0]) + builder.choice(rest, "digits")]
    zeros, nines = "0" * (len(low) - 1), "9" * (len(low) - 1)
    found, first, last = [], int(low[0]), int(high[0])
    if low[1:] != zeros:
        inner = builder.choice(_same_length(builder, low[1:], nines), "digits")
        found.append(builder.text(low[0]) + inner)
        first += 1
    if high[1:] != nines:
        inner = builder.choice(_same_length(builder, zeros, high[1:]), "digits")
        found.append(builder.text(high[0]) + inner)
        last -= 1
    if first <= last:
        head = chars([(48 + first, 48 + last)])
        found.append((head, *builder.repeat((DIGIT,), len(zeros), len(zeros))))
    return found
