"""A grammar that llguidance has taken, and the shortest text that brings it to its end, from
wherever a text is in it.

llguidance tells which bytes may follow, not how far the end is; so it is searched for. A first try
takes what closes things, as a quotation mark or a bracket; a search then shortens it. Where places
in a grammar look alike (the same bytes may follow, and the first try ends them alike) the search
goes on from one of them.
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import count

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from llamacli.errors import InvalidModelError

# Smaller than llguidance's own limits, so that a hostile grammar ends in moments.
LIMITS = LLParserLimits(max_grammar_size=200_000, max_lexer_states=50_000, verbose_errors=False)
# Bytes of the longest first try, and steps of the search around it: about a second in all.
TRIES = ((128, 10_000), (2_048, 20_000), (32_768, 100_000))
MAX_ENDING = TRIES[-1][0]
STRING = 64  # so many bytes may follow within a string, and nowhere else
# What the first try takes of the bytes that may follow: within a string, and elsewhere.
CLOSING = b"\"0aA '-"
PLAIN = b']}0123456789ntf"-'
PATIENCE = 16  # times that it comes to the same bytes before it takes another one of them


@dataclass
class Ending:
    """A grammar's matcher over bytes, which follows a text, and a way to the end from there.

    way is None where none was found. words are texts of the grammar that may have to be said.
    """

    matcher: LLMatcher
    way: bytes | None = None
    words: tuple[bytes, ...] = ()

    def follow(self, piece: bytes) -> None:
        """Go on by piece, which the grammar has; way need not be the shortest then."""
        self.matcher.consume_tokens(list(piece))
        if self.way is not None and self.way.startswith(piece):
            self.way = self.way[len(piece) :]
        elif self.way is None or not _is_way(self.matcher, self.way):
            self.way = _first_way(self.matcher, TRIES[0][0])
            if self.way is None:
                self.shorten()

    def back(self, count: int, way: bytes | None) -> None:
        """Undo the last count bytes; way is what it was there."""
        if count:
            self.matcher.rollback(count)
        self.way = way

    def shorten(self) -> None:
        """Search for the shortest way."""
        for most, steps in TRIES:
            self.way = _Search(self.words, most, steps).run(self.matcher)
            if self.way is not None:
                return


@dataclass
class _Search:
    """For a way whose first try has at most that many bytes, within so many steps."""

    words: tuple[bytes, ...]
    most: int
    steps: int

    def run(self, start: LLMatcher) -> bytes | None:
        best = self.first_way(start)
        order = count()
        queue = [(0, next(order), b"", start)]
        known: dict[tuple[bytes, bytes | None, bytes | None], int] = {}
        while queue and self.steps > 0:
            _, _, path, place = heapq.heappop(queue)
            for step, after in _different_steps(place, self.words):
                self.steps -= 1
                begun = path + step
                if best is not None and len(begun) >= len(best):
                    continue
                way = self.first_way(after)
                said = step if way is None and step in self.words else None
                alike = (after.compute_bitmask(), way, said)
                if known.get(alike, len(begun) + 1) <= len(begun):
                    continue
                known[alike] = len(begun)
                if way is not None and (best is None or len(begun) + len(way) < len(best)):
                    best = begun + way
                rest = MAX_ENDING if way is None else len(way)
                heapq.heappush(queue, (len(begun) + rest, next(order), begun, after))
        return best

    def first_way(self, place: LLMatcher) -> bytes | None:
        way = _first_way(place, self.most)
        self.steps -= self.most if way is None else len(way)
        return way


def _different_steps(
    place: LLMatcher, words: tuple[bytes, ...]
) -> Iterator[tuple[bytes, LLMatcher]]:
    """The bytes that must follow; else words that may, and each byte that leads elsewhere.

    Places where any text may follow, up to a word, look alike within that word.
    """
    if forced := place.compute_ff_bytes():
        words = (forced,)
    for word in words:
        if (after := _after(place, word)) is not None:
            yield word, after
    seen = set()
    for byte in b"" if forced else _following(place.compute_bitmask()):
        if (after := _after(place, bytes([byte]))) is not None:
            alike = (after.compute_bitmask(), after.compute_ff_bytes(), after.is_accepting())
            if alike not in seen:
                seen.add(alike)
                yield bytes([byte]), after


def _first_way(place: LLMatcher, most: int) -> bytes | None:
    """The way that takes the likeliest byte each time, and another one where that leads nowhere, as
    the same bytes may follow again; None where it is longer than most."""
    place, way = place.deep_copy(), b""
    mask, again = b"", 0
    seen: dict[bytes, int] = {}
    while not place.is_accepting():
        before, mask = mask, place.compute_bitmask()
        if not (step := place.compute_ff_bytes()):
            again = again + 1 if mask == before else 0
            seen[mask] = seen.get(mask, -1) + 1
            step = _likely(mask, again + seen[mask] // PATIENCE)
        way += step
        if not step or len(way) > most or not place.consume_tokens(list(step)):
            return None
    return way


@lru_cache(1 << 12)
def _likely(mask: bytes, turn: int) -> bytes:
    following = _following(mask)
    liked = CLOSING if len(following) > STRING else PLAIN
    ordered = [byte for byte in liked if byte in following]
    ordered += [byte for byte in following if byte not in liked]
    return bytes([ordered[turn % len(ordered)]]) if ordered else b""


@lru_cache(1 << 12)
def _following(mask: bytes) -> bytes:
    """The bytes that may follow."""
    bits = int.from_bytes(mask[:32], "little")
    return bytes(byte for byte in range(256) if bits >> byte & 1)


def _after(place: LLMatcher, step: bytes) -> LLMatcher | None:
    copy = place.deep_copy()
    return copy if copy.consume_tokens(list(step)) else None


def _is_way(place: LLMatcher, way: bytes) -> bool:
    copy = place.deep_copy()
    return copy.consume_tokens(list(way)) and copy.is_accepting()


class Refused(InvalidModelError):
    """problem is what llguidance says against a grammar."""

    def __init__(self, problem: str, text: str) -> None:
        super().__init__(text)
        self.problem = problem


@dataclass(frozen=True)
class Grammar:
    """text is llguidance's: JSON with a list of grammars. shortest is the shortest text it has,
    words are some that stand in it."""

    text: str
    shortest: bytes
    words: tuple[bytes, ...] = ()

    def ending(self) -> Ending:
        """At the grammar's start."""
        return Ending(_matcher(self.text), self.shortest, self.words)

    def matcher(self, tokenizer: LLTokenizer) -> LLMatcher:
        """At the grammar's start, over a model's tokens."""
        return LLMatcher(tokenizer, self.text, log_level=0, limits=LIMITS)


def checked(text: str, what: str, words: tuple[bytes, ...] = ()) -> Grammar:
    """Raises InvalidModelError where the grammar is too large, or has no text that ends."""
    ending = Ending(_matcher(text), words=words)
    if problem := _problem(ending.matcher):
        raise Refused(problem, f"the {what} can't be honoured: {problem}")
    ending.shorten()
    if ending.way is None:
        raise InvalidModelError(
            f"the {what} can't be honoured: no end of it was found within {MAX_ENDING} bytes"
        )
    return Grammar(text, ending.way, words)


def fault(text: str) -> str:
    """What llguidance says against a grammar, in one line; empty where it takes it."""
    return _problem(_matcher(text))


def _problem(matcher: LLMatcher) -> str:
    lines = [*matcher.get_error().splitlines(), *matcher.get_grammar_warnings()]
    for line in lines:
        if line.startswith("error: "):
            return f"regular expression: {line.removeprefix('error: ')}"
    told = lines[0].strip() if lines else ""
    return "it is too large" if told.startswith("panic") else told


def _matcher(text: str) -> LLMatcher:
    return LLMatcher(_bytes(), text, log_level=0, limits=LIMITS)


@cache
def _bytes() -> LLTokenizer:
    """A vocabulary of the 256 bytes."""
    return LLTokenizer("byte", slices=[])
