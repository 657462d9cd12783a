"""Drafts copied from what was read and said before: the tokens that followed the same ones.

And what drafts came to, here, where nothing is imported, for those who only tell it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

LEAST = 3  # tokens that must be the same; shorter ones are chance
LONGEST = 32  # that are compared
PLACES = 8  # the latest ones of the same LEAST tokens that are compared


@dataclass
class Drafted:
    """What drafting came to: evaluations, tokens drafted and accepted."""

    evaluations: int = 0
    tokens: int = 0
    accepted: int = 0


@dataclass
class Lookup:
    """tokens so far; places has where each LEAST of them in a row end, the latest ones."""

    tokens: list[int] = field(default_factory=list)
    places: dict[tuple[int, ...], list[int]] = field(default_factory=dict)

    def extend(self, tokens: Iterable[int]) -> None:
        for token in tokens:
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
        itself, it is repeated.
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
            if length > same:
                best, same = place, length
        if not same:
            return [], 0
        drafted = tokens[best : best + most]
        while len(drafted) < most:
            drafted.append(drafted[len(drafted) - (end - best)])
        return drafted, same
