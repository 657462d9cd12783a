"""Drafts copied from what was read and said before: the tokens that followed the same ones.

And what drafts came to, here, where nothing is imported, for those who only tell it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

LEAST = 3  # tokens that must be the same; shorter ones are chance
LONGEST = 80  # that are compared
PLACES = 8  # the latest ones of the same LEAST tokens that are compared
SURE = 9  # equal tokens from which on a text counts as copied, be some of its tokens others
NEAR = 8  # tokens around where the copied text should go on that one in common is looked for
MOST_OTHER = 4  # tokens in a row that are others, after which it isn't copied any more


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
