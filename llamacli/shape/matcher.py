"""Follows a text through a grammar, and knows the shortest way to end it from there."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from llamacli.errors import InvalidModelError
from llamacli.shape.grammar import Chars, Element, Grammar, utf8_length

MAX_STACKS = 2_000
MAX_MEMORY = 200_000
DONE = 0  # the empty stack: the text may end
LIKED = tuple(map(ord, "0a A-\"'"))  # for a class of which any character will do

State = frozenset[int]


@dataclass(frozen=True)
class Place:
    """Where a text is in the grammar: the ways on from there, and a begun character's bytes."""

    stacks: State
    partial: bytes = b""

    @property
    def may_end(self) -> bool:
        return DONE in self.stacks and not self.partial

    @property
    def must_end(self) -> bool:
        return self.may_end and len(self.stacks) == 1


@dataclass
class Matcher:
    """A grammar's rules as one list of elements, and stacks of positions in it, each stored once.

    stacks[i] is (position, the stack below it); costs[i] the bytes it takes at least to end.
    """

    grammar: Grammar
    code: list[Element | None] = field(default_factory=list)  # None ends an alternative
    tails: list[int] = field(default_factory=list)  # the least bytes from a position to that end
    starts: list[list[int]] = field(default_factory=list)
    stacks: list[tuple[int, int]] = field(default_factory=lambda: [(-1, -1)])
    costs: list[int] = field(default_factory=lambda: [0])
    ids: dict[tuple[int, int], int] = field(default_factory=dict)
    opened: dict[int, State] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for alternatives in self.grammar.rules:
            self.starts.append([])
            for items in alternatives:
                self.starts[-1].append(len(self.code))
                self.code += [*items, None]
        self.tails = [0] * len(self.code)
        for at in range(len(self.code) - 1, -1, -1):
            if (element := self.code[at]) is not None:
                self.tails[at] = self._least(element) + self.tails[at + 1]

    def start(self) -> Place:
        return Place(self._all_opened({self._push(at, DONE) for at in self.starts[0]}))

    def follow(self, place: Place, data: bytes) -> Place | None:
        """Where data leads, which may end inside a character; None where the grammar has it not."""
        data = place.partial + data
        try:
            text, rest = data.decode(), b""
        except UnicodeDecodeError as error:
            if error.end != len(data) or error.reason != "unexpected end of data":
                return None
            text, rest = data[: error.start].decode(), data[error.start :]
        stacks = place.stacks
        for char in text:
            stacks = self._step(stacks, ord(char))
            if not stacks:
                return None
        found = Place(stacks, rest)
        return found if not rest or self._endings(found) else None

    def ending(self, place: Place) -> tuple[bytes, str]:
        """The shortest way to the end: the bytes that end a begun character, and text."""
        if place.partial:
            _, stack, code = min(self._endings(place))
            position, below = self.stacks[stack]
            begun = chr(code).encode()[len(place.partial) :]
            return begun, self._spell(self._push(position + 1, below))
        return b"", self._spell(min(place.stacks, key=self.costs.__getitem__))

    def ending_length(self, place: Place) -> int:
        """The bytes that ending has."""
        if place.partial:
            return min(self._endings(place))[0]
        return min(self.costs[stack] for stack in place.stacks)

    def _endings(self, place: Place) -> list[tuple[int, int, int]]:
        """For each stack that can end the begun character: bytes to the end, stack, character."""
        low, high = _possible(place.partial)
        found = []
        for stack in place.stacks - {DONE}:
            position, below = self.stacks[stack]
            element = self.code[position]
            assert isinstance(element, Chars)
            codes = [max(low, a) for a, b in element.ranges if a <= high and low <= b]
            if codes:
                after = self.costs[self._push(position + 1, below)]
                rest = utf8_length(codes[0]) - len(place.partial)
                found.append((rest + after, stack, codes[0]))
        return found

    def _least(self, element: Element) -> int:
        if isinstance(element, Chars):
            return utf8_length(element.ranges[0][0])
        return self.grammar.least[element.rule]

    def _push(self, position: int, below: int) -> int:
        """The stack with position on top; an alternative's end is never on a stack."""
        if self.code[position] is None:
            return below
        key = (position, below)
        if (found := self.ids.get(key)) is None:
            if len(self.stacks) > MAX_MEMORY * 5:
                raise InvalidModelError("the grammar takes too much memory to follow; simplify it")
            found = self.ids[key] = len(self.stacks)
            self.stacks.append(key)
            self.costs.append(self.tails[position] + self.costs[below])
        return found

    def _open(self, stack: int) -> State:
        """The stacks that references on top lead to, each with a class on top, or empty."""
        if (known := self.opened.get(stack)) is not None:
            return known
        found, seen, waiting = set(), {stack}, [stack]
        while waiting:
            position, below = self.stacks[current := waiting.pop()]
            element = self.code[position] if current != DONE else None
            if element is None or isinstance(element, Chars):
                found.add(current)
                continue
            rest = self._push(position + 1, below)
            for at in self.starts[element.rule]:
                if (pushed := self._push(at, rest)) not in seen:
                    seen.add(pushed)
                    waiting.append(pushed)
            if len(seen) > MAX_STACKS * 10:
                raise InvalidModelError("the grammar is too ambiguous to follow; simplify it")
        if len(self.opened) > MAX_MEMORY:
            self.opened.clear()
        self.opened[stack] = result = frozenset(found)
        return result

    def _all_opened(self, stacks: set[int]) -> State:
        found = frozenset().union(*map(self._open, stacks))
        if len(found) > MAX_STACKS:
            raise InvalidModelError("the grammar is too ambiguous to follow; simplify it")
        return found

    def _step(self, stacks: State, code: int) -> State:
        following = set()
        for stack in stacks - {DONE}:
            position, below = self.stacks[stack]
            element = self.code[position]
            if isinstance(element, Chars) and element.has(code):
                following.add(self._push(position + 1, below))
        return self._all_opened(following)

    def _spell(self, stack: int) -> str:
        """The shortest text that empties the stack."""
        return "".join(self._shortest(stack))

    def _shortest(self, stack: int) -> Iterator[str]:
        while stack != DONE:
            position, stack = self.stacks[stack]
            waiting = [position]
            while waiting:
                at = waiting.pop()
                element = self.code[at]
                if element is None:
                    continue
                waiting.append(at + 1)
                if isinstance(element, Chars):
                    yield chr(_liked(element))
                else:
                    starts = self.starts[element.rule]
                    waiting.append(min(starts, key=self.tails.__getitem__))


def _liked(element: Chars) -> int:
    """A character of the class in as few bytes as there are, a plain one where there is."""
    first = element.ranges[0][0]
    return next((code for code in LIKED if element.has(code)), first) if first < 0x80 else first


def _possible(partial: bytes) -> tuple[int, int]:
    """The least and the greatest code point whose UTF-8 begins with partial."""
    length = 2 if partial[0] < 0xE0 else 3 if partial[0] < 0xF0 else 4
    missing = length - len(partial)
    value = partial[0] & (0x7F >> length)
    for byte in partial[1:]:
        value = value << 6 | byte & 0x3F
    low, high = value << 6 * missing, (value + 1 << 6 * missing) - 1
    return max(low, {2: 0x80, 3: 0x800, 4: 0x10000}[length]), min(high, 0x10FFFF)
