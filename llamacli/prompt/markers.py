"""A chat template's own markers, spelled in characters that no text from outside can have.

Control tokens may come from the template alone, yet a template may cut, join and compare what it is
given. So messages go in as they are, and it is the template's literals that are respelled: each
character of a marker is moved to a plane of Unicode that the messages don't use. What has that
spelling in the rendered text was written by the template, whatever it did with the messages.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache

from llamacli.prompt.messages import ROLES

# Private use, then planes that have no characters; a text that uses one of them is rare.
PLANES = (0x100000, 0xF0000, *range(0x40000, 0xE0000, 0x10000))


@dataclass(frozen=True)
class Markers:
    """Spellings that literals of a template may hold, and the plane to which they are moved.

    A template may also put a role's name between the halves of a marker, as '<|' + role + '|>'
    does: halves are the two parts around the names that stand in spellings.
    """

    spellings: frozenset[str] = frozenset()
    plane: int = PLANES[0]

    @cached_property
    def halves(self) -> frozenset[tuple[str, str]]:
        """What stands before and after a role's name in a spelling, neither of them empty."""
        parts = (s.partition(role) for s in self.spellings for role in ROLES if role in s[1:-1])
        return frozenset((before, after) for before, _, after in parts)

    @cached_property
    def _pattern(self) -> "re.Pattern[str]":
        """Whole spellings, the longest first; else a first half at the end, a second in front."""
        whole = sorted(self.spellings, key=len, reverse=True)
        firsts = {rf"{re.escape(before)}\Z" for before, _ in self.halves}
        seconds = {rf"\A{re.escape(after)}" for _, after in self.halves}
        return re.compile("|".join([*map(re.escape, whole), *sorted(firsts), *sorted(seconds)]))

    def respell(self, literal: str) -> str:
        """A literal of the template with its markers respelled."""
        if not self.spellings:
            return literal
        return self._pattern.sub(lambda match: moved(match.group(), self.plane), literal)

    def plain(self, text: str) -> str:
        """A rendered text with every respelled character as it was."""
        back = own_characters(self.plane)
        return back.sub(lambda match: chr(ord(match.group()) - self.plane), text)

    @cached_property
    def written(self) -> dict[str, str]:
        """What a template's markers look like in the rendered text, and their spelling."""
        spellings = {moved(spelling, self.plane): spelling for spelling in self.spellings}
        for before, after in self.halves:
            for role in ROLES:
                if (spelling := before + role + after) in self.spellings:
                    spellings[moved(before, self.plane) + role + moved(after, self.plane)] = (
                        spelling
                    )
        return spellings


def markers_of(spellings: Iterable[str], text: str) -> Markers | None:
    """Markers for messages whose texts stand in text; None where those use up every plane.

    Spellings beyond the Basic Multilingual Plane can't be moved, so no template can write them.
    """
    for plane in PLANES:
        if not own_characters(plane).search(text):
            return _on_plane(frozenset(spellings), plane)
    return None


# A model's prompts have the same markers, which take longer to spell than a prompt to encode.
@lru_cache(8)
def _on_plane(spellings: frozenset[str], plane: int) -> Markers:
    return Markers(frozenset(s for s in spellings if s and max(s) < "\U00010000"), plane)


@lru_cache(8)
def within(markers: Markers, template: str) -> Markers:
    """Those that the template's source holds, or that it may put around a role."""
    halves = {half for pair in markers.halves for half in pair if half in template}
    there = {s for s in markers.spellings if s in template or any(h in s for h in halves)}
    return Markers(frozenset(there), markers.plane)


def own_characters(plane: int) -> "re.Pattern[str]":
    return re.compile(f"[{chr(plane)}-{chr(plane + 0xFFFF)}]")


def moved(text: str, plane: int) -> str:
    return "".join(chr(plane + ord(c)) for c in text)
