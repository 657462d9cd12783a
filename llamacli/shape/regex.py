"""The regular expressions of JSON Schema's `pattern`, as grammars of the inside of JSON strings.

What is understood: literals, `.`, classes, groups, alternatives, `* + ? {m,n}`, `^` at the start
and `$` at the end, and the escapes d, w, s and their opposites. Those stand for ASCII here, and
control characters are left out: the grammar has fewer texts than the expression, never others.
"""

import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass

from llamacli.shape.grammar import LAST, Builder, Items, Range, chars

MAX_NESTING = 64
TEXT: list[Range] = [(0x20, 0x7E), (0xA0, 0xD7FF), (0xE000, LAST)]
KINDS: dict[str, list[Range]] = {
    "d": [(48, 57)],
    "w": [(48, 57), (65, 90), (95, 95), (97, 122)],
    "s": [(32, 32)],
}
# What \D, \W and \S stand for leaves out what Unicode counts to d, w and s beyond ASCII.
ASCII: list[Range] = [(0x20, 0x7E)]
CONTROLS = {"t": 9, "n": 10, "r": 13, "f": 12, "v": 11}
COUNTS = re.compile(r"\{(\d{1,6})(?:(,)(\d{1,6})?)?\}")
QUOTE, BACKSLASH = 0x22, 0x5C


def pattern_items(builder: Builder, pattern: object) -> Items:
    """Raises ValueError where the pattern isn't one, or has what isn't understood."""
    if not isinstance(pattern, str):
        raise ValueError("not a text")
    try:
        with warnings.catch_warnings(action="ignore"):
            re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"not a regular expression: {error}") from None
    reader = _Reader(builder, pattern)
    anything = builder.repeat(_written(builder, TEXT), 0, None)
    items = reader.alternatives(0, anything)
    if reader.at < len(pattern):
        raise ValueError(f"unexpected {pattern[reader.at]!r} at {reader.at}")
    return items


@dataclass
class _Reader:
    builder: Builder
    pattern: str
    at: int = 0

    def next_is(self, text: str) -> bool:
        return self.pattern.startswith(text, self.at)

    def take(self, text: str) -> bool:
        found = self.next_is(text)
        self.at += len(text) if found else 0
        return found

    def alternatives(self, depth: int, around: Items = ()) -> Items:
        """On the outermost level, an alternative without ^ or $ has any text there (around)."""
        found = []
        while True:
            before = () if not depth and self.take("^") else around
            items = self.sequence(depth)
            after = () if not depth and self.take("$") else around
            found.append(before + items + after)
            if not self.take("|"):
                return self.builder.choice(found, "pattern")

    def sequence(self, depth: int) -> Items:
        items: Items = ()
        while self.at < len(self.pattern) and self.pattern[self.at] not in "|)":
            if self.next_is("$") and not depth:
                break
            atom = self.atom(depth)
            items += self.repeated(atom)
        return items

    def repeated(self, atom: Items) -> Items:
        bounds: tuple[int, int | None] | None = None
        for sign, meant in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
            if self.take(sign):
                bounds = meant
                break
        else:
            if found := COUNTS.match(self.pattern, self.at):
                self.at = found.end()
                least = int(found[1])
                bounds = least, (least if not found[2] else int(found[3]) if found[3] else None)
        if bounds is None:
            return atom
        if self.at < len(self.pattern) and self.pattern[self.at] in "*+?":
            raise ValueError("lazy and possessive repetition are not supported")
        return self.builder.repeat(atom, *bounds)

    def atom(self, depth: int) -> Items:
        char = self.pattern[self.at]
        self.at += 1
        if char == "(":
            return self.group(depth)
        if char == "[":
            return _written(self.builder, self.char_class())
        if char == ".":
            return _written(self.builder, TEXT)
        if char == "\\":
            return _written(self.builder, self.escape())
        if char in "^$*+?{":
            raise ValueError(f"{char!r} at {self.at - 1} is not supported there")
        return _written(self.builder, [(ord(char), ord(char))])

    def group(self, depth: int) -> Items:
        if depth >= MAX_NESTING:
            raise ValueError(f"groups nest deeper than {MAX_NESTING}")
        if not self.take("?:") and self.next_is("?"):
            raise ValueError("of the groups that begin with ? only (?:…) is supported")
        items = self.alternatives(depth + 1)
        self.at += 1  # the closing parenthesis, which re.compile has seen
        return items

    def escape(self) -> list[Range]:
        kind = self.pattern[self.at]
        self.at += 1
        if kind in KINDS:
            return KINDS[kind]
        if kind.lower() in KINDS:
            return list(chars([*KINDS[kind.lower()], (0, 0x1F), (0x7F, LAST)], negated=True).ranges)
        if kind in CONTROLS:
            return [(CONTROLS[kind], CONTROLS[kind])]
        if kind.isalnum():
            raise ValueError(f"\\{kind} is not supported")
        return [(ord(kind), ord(kind))]

    def char_class(self) -> list[Range]:
        negated = self.take("^")
        ranges: list[Range] = []
        first = True
        while first or not self.next_is("]"):
            first = False
            low = self.class_member()
            one = len(low) == 1 and low[0][0] == low[0][1]
            if one and self.next_is("-") and not self.next_is("-]"):
                self.at += 1
                low = [(low[0][0], self.class_member()[0][1])]
            ranges += low
        self.at += 1
        return list(chars(ranges, negated=True).ranges) if negated else ranges

    def class_member(self) -> list[Range]:
        char = self.pattern[self.at]
        self.at += 1
        return self.escape() if char == "\\" else [(ord(char), ord(char))]


def _written(builder: Builder, ranges: Iterable[Range]) -> Items:
    """One character of the ranges as a JSON string has it."""
    found = list(chars(ranges).ranges)
    plain = [
        (max(low, a), min(high, b))
        for low, high in found
        for a, b in [(0x20, 0x21), (0x23, 0x5B), (0x5D, 0x7E), *TEXT[1:]]
        if max(low, a) <= min(high, b)
    ]
    ways: list[Items] = [(chars(plain),)] if plain else []
    for code in (QUOTE, BACKSLASH):
        if any(low <= code <= high for low, high in found):
            ways.append(builder.text("\\" + chr(code)))
    if not ways:
        raise ValueError("control characters are not supported")
    return builder.choice(ways, "char")
