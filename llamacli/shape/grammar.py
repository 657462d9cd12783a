"""Grammars as rules over characters: built in code, checked, written for llama.cpp.

llama.cpp's own reader would take a grammar that makes it abort, loop or run out of memory. What is
handed to it here is written anew from rules that have passed the checks below, in the plainest
GBNF there is: literals, classes, references and alternatives.
"""

import graphlib
import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from llamacli.errors import InvalidModelError

MAX_RULES = 20_000  # llama.cpp walks rules by recursion
MAX_ELEMENTS = 200_000
MAX_PATHS = 1_000_000  # ways down the first elements of rules, each of which llama.cpp walks
SURROGATES = (0xD800, 0xDFFF)
LAST = 0x10FFFF
REPEAT = "repeat"

Range = tuple[int, int]


@dataclass(frozen=True)
class Chars:
    """One character out of inclusive ranges of code points, in order and apart from each other."""

    ranges: tuple[Range, ...]

    def has(self, code: int) -> bool:
        return any(low <= code <= high for low, high in self.ranges)


@dataclass(frozen=True)
class Ref:
    """A rule, by its number."""

    rule: int


Element = Chars | Ref
Items = tuple[Element, ...]  # in sequence


@dataclass(frozen=True)
class Grammar:
    """rules[i] are rule i's alternatives; rule 0 is the start. least[i] is the length in UTF-8
    bytes of the shortest text that rule i has."""

    names: tuple[str, ...]
    rules: tuple[tuple[Items, ...], ...]
    least: tuple[int, ...]

    def gbnf(self) -> str:
        """What llama.cpp reads, with the start symbol root."""
        lines = []
        for i, alternatives in enumerate(self.rules):
            written = " | ".join(" ".join(map(_written, items)) or '""' for items in alternatives)
            lines.append(f"{_name(i)} ::= {written}\n")
        return "".join(lines)


def _name(rule: int) -> str:
    return f"r{rule}" if rule else "root"


def _written(element: Element) -> str:
    if isinstance(element, Ref):
        return _name(element.rule)
    return "[" + "".join(f"\\U{low:08X}-\\U{high:08X}" for low, high in element.ranges) + "]"


def chars(ranges: Iterable[Range], *, negated: bool = False) -> Chars:
    """A class of the code points that text can have: no surrogates, no NUL.

    Raises InvalidModelError where none is left.
    """
    excluded = [(0, 0), SURROGATES]
    wanted = _without([(1, LAST)], ranges) if negated else list(ranges)
    found: list[Range] = []
    for low, high in sorted(_without(wanted, excluded)):
        if found and low <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(high, found[-1][1]))
        else:
            found.append((low, high))
    if not found:
        raise InvalidModelError("the grammar has a class that no character is in")
    return Chars(tuple(found))


def _without(ranges: Iterable[Range], excluded: Iterable[Range]) -> list[Range]:
    left = [(low, min(high, LAST)) for low, high in ranges if low <= min(high, LAST)]
    for first, last in excluded:
        parts = [((low, min(high, first - 1)), (max(low, last + 1), high)) for low, high in left]
        left = [part for pair in parts for part in pair if part[0] <= part[1]]
    return left


ANY = chars([(1, LAST)])


@dataclass
class Builder:
    """Puts a grammar together; each method gives Items to be used in others.

    Raises InvalidModelError where the grammar grows too large.
    """

    names: list[str] = field(default_factory=list)
    rules: list[tuple[Items, ...] | None] = field(default_factory=list)
    elements: int = 0

    def reserve(self, name: str) -> Ref:
        """A rule whose alternatives come later, by define."""
        if len(self.rules) >= MAX_RULES:
            raise InvalidModelError(f"the grammar needs more than {MAX_RULES} rules; simplify it")
        self.names.append(name)
        self.rules.append(None)
        return Ref(len(self.rules) - 1)

    def define(self, rule: Ref, alternatives: Iterable[Items]) -> None:
        """An alternative may be empty."""
        self.rules[rule.rule] = defined = tuple(dict.fromkeys(alternatives))
        self.elements += sum(map(len, defined))
        if self.elements > MAX_ELEMENTS:
            raise InvalidModelError(
                f"the grammar has more than {MAX_ELEMENTS} elements; lower its repetitions"
            )

    def text(self, literal: str) -> Items:
        return tuple(chars([(ord(c), ord(c))]) for c in literal)

    def choice(self, alternatives: Sequence[Items], name: str = "choice") -> Items:
        if len(set(alternatives)) == 1:
            return alternatives[0]
        rule = self.reserve(name)
        self.define(rule, alternatives)
        return (rule,)

    def repeat(self, items: Items, least: int, most: int | None, name: str = REPEAT) -> Items:
        """least to most times; most None has no end."""
        if not items or most == 0:
            return ()
        if len(items) > 1:
            items = self._grouped(items)
        if max(least, most or 0) > MAX_ELEMENTS:
            raise InvalidModelError(f"the grammar repeats something {most or least} times")
        tail: Items = ()
        if most is None:
            rule = self.reserve(name)
            self.define(rule, [(*items, rule), ()])
            tail = (rule,)
        else:
            for _ in range(most - least):
                rule = self.reserve(name)
                self.define(rule, [(*items, *tail), ()])
                tail = (rule,)
        return items * least + tail

    def _grouped(self, items: Items) -> Items:
        rule = self.reserve("group")
        self.define(rule, [items])
        return (rule,)

    def finish(self) -> Grammar:
        """The checked grammar: every rule defined, ends, and none begins with itself."""
        rules = tuple(rule for rule in self.rules if rule is not None)
        for name, rule in zip(self.names, self.rules, strict=True):
            if rule is None:
                raise InvalidModelError(
                    f"the grammar uses the rule {name}, which it doesn't define"
                )
        least = _shortest(rules)
        for name, length in zip(self.names, least, strict=True):
            if length is None:
                raise InvalidModelError(f"the grammar's rule {name} can never end")
        lengths = tuple(length for length in least if length is not None)
        _check_beginnings(self.names, rules, lengths)
        return Grammar(tuple(self.names), rules, lengths)


def utf8_length(code: int) -> int:
    return 1 if code < 0x80 else 2 if code < 0x800 else 3 if code < 0x10000 else 4


def _shortest(rules: tuple[tuple[Items, ...], ...]) -> list[int | None]:
    """The least bytes of each rule, by Knuth's generalization of Dijkstra's algorithm."""
    least: list[int | None] = [None] * len(rules)
    waiting: list[list[int]] = []  # an alternative's rule, bytes so far, references yet unknown
    users: dict[int, list[int]] = {}
    queue: list[Range] = []
    for rule, alternatives in enumerate(rules):
        for items in alternatives:
            known = sum(utf8_length(e.ranges[0][0]) for e in items if isinstance(e, Chars))
            refs = [e.rule for e in items if isinstance(e, Ref)]
            for ref in refs:
                users.setdefault(ref, []).append(len(waiting))
            waiting.append([rule, known, len(refs)])
            if not refs:
                heapq.heappush(queue, (known, rule))
    while queue:
        length, rule = heapq.heappop(queue)
        if least[rule] is not None:
            continue
        least[rule] = length
        for user in users.get(rule, ()):
            waiting[user][1] += length
            waiting[user][2] -= 1
            if not waiting[user][2]:
                heapq.heappush(queue, (waiting[user][1], waiting[user][0]))
    return least


def _check_beginnings(
    names: Sequence[str], rules: tuple[tuple[Items, ...], ...], least: Sequence[int]
) -> None:
    """Refuse rules that begin with themselves, or begin in too many ways."""
    begins: dict[int, list[int]] = {}
    for rule, alternatives in enumerate(rules):
        first = begins.setdefault(rule, [])
        for items in alternatives:
            for element in items:
                if isinstance(element, Chars):
                    break
                first.append(element.rule)
                if least[element.rule]:
                    break
    paths = [0] * len(rules)
    try:
        for rule in graphlib.TopologicalSorter(begins).static_order():
            paths[rule] = 1 + sum(paths[first] for first in begins[rule])
    except graphlib.CycleError as error:
        cycle = [names[rule] for rule in error.args[1]]
        if set(cycle) == {REPEAT}:
            raise InvalidModelError("the grammar repeats without end what may be empty") from None
        shown = " → ".join(cycle)
        raise InvalidModelError(f"the grammar's rule begins with itself: {shown}") from None
    if sum(paths) > MAX_PATHS:
        raise InvalidModelError("the grammar's rules begin in too many ways; simplify it")
