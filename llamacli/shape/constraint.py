"""Answers that keep to a grammar: llama.cpp masks, a matcher checks and brings them to an end."""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import POINTER, byref, cast
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llamacli.engine import Vocabulary
from llamacli.errors import LlamacliError, UsageError
from llamacli.shape.grammar import Grammar
from llamacli.shape.matcher import Matcher, Place

TRIES = 32  # tokens that llama.cpp lets through and the matcher doesn't, before the answer is ended
PATIENCE = 20.0  # seconds for one call into llama.cpp's grammar
CANDIDATE = np.dtype([("id", "<i4"), ("logit", "<f4"), ("p", "<f4")])


@dataclass
class Constraint:
    """Chooses an answer's tokens one by one so that a grammar has its text.

    A token is drawn as without a grammar; where the matcher refuses it, llama.cpp's grammar sampler
    masks all that don't fit, and one is drawn among the rest. After each token the shortest way to
    the grammar's end still fits into the tokens left; where none would, that way is taken, so that
    the text is whole, and cut is set. Use `with constrained(…)`.
    """

    vocabulary: Vocabulary
    matcher: Matcher
    sampler: Any
    place: Place
    cut: bool = False
    waiting: list[int] = field(default_factory=list)  # chosen, not yet told to the sampler
    ending: list[int] | None = None
    letters: dict[int, int] = field(default_factory=dict)  # tokens of bytes, once they are needed

    @property
    def done(self) -> bool:
        """Whether nothing can follow."""
        return self.place.must_end if self.ending is None else not self.ending

    def choose(self, chain: Any, logits: NDArray[np.float32], left: int) -> int:
        """The next token, of at most left ones (1 or more) without the end token."""
        if self.ending is None and not self._draw(chain, logits, left):
            self.cut, self.ending = True, self._way_out(self.place) or []
        if self.ending is not None:
            if not self.ending:
                return self.vocabulary.eos
            return self.ending.pop(0)
        return self.waiting[-1]

    def _draw(self, chain: Any, logits: NDArray[np.float32], left: int) -> bool:
        """Whether a token was found; it is then the last of waiting."""
        if self.place.must_end:
            self.waiting.append(self.vocabulary.eos)
            return True
        candidates = _Candidates(self.vocabulary.library, logits)
        token = candidates.apply(chain).chosen()
        place = self._after(token)
        if place is None:
            self._catch_up()
            with watched():
                candidates = _Candidates(self.vocabulary.library, logits).apply(self.sampler)
            allowed = candidates.logits()
            for _ in range(TRIES):
                token = _Candidates(self.vocabulary.library, allowed).apply(chain).chosen()
                if not np.isfinite(allowed[token]):
                    return False
                if (place := self._after(token)) is not None:
                    break
                allowed[token] = -np.inf
        if place is None or not self.fits(place, left - 1):
            return False
        self.vocabulary.library.llama_sampler_accept(chain, token)
        self.place = place
        self.waiting.append(token)
        return True

    def _after(self, token: int) -> Place | None:
        if token in self.vocabulary.end_tokens:
            return self.place if self.place.may_end else None
        if token in self.vocabulary.control_tokens:
            return None
        piece = self.vocabulary.piece(token)
        found = self.matcher.follow(self.place, piece) if piece else None
        if found is None or (found.partial and self._way_out(found) is None):
            return None
        return found

    def fits(self, place: Place, left: int) -> bool:
        """Whether the grammar's end can be reached in that many tokens."""
        length = self.matcher.ending_length(place)
        if length <= left or length > 64 * left:  # a token has a byte or more
            return length <= left
        way = self._way_out(place)
        return way is not None and len(way) <= left

    def _way_out(self, place: Place) -> list[int] | None:
        """The tokens of the shortest text to the end; None where the vocabulary lacks a byte."""
        begun, text = self.matcher.ending(place)
        if begun and not self.letters:
            self.letters = _byte_tokens(self.vocabulary)
        if not all(byte in self.letters for byte in begun):
            return None
        return [self.letters[byte] for byte in begun] + self.vocabulary.tokenize(text)

    def _catch_up(self) -> None:
        """Tell the sampler of tokens that the matcher has passed; others would abort it."""
        with watched():
            for token in self.waiting:
                self.vocabulary.library.llama_sampler_accept(self.sampler, token)
        self.waiting.clear()


@contextmanager
def constrained(vocabulary: Vocabulary, grammar: Grammar, most: int) -> Iterator[Constraint]:
    """A constraint for one answer of at most that many tokens.

    Raises UsageError where the shortest text of the grammar is longer.
    """
    matcher = Matcher(grammar)
    library = vocabulary.library
    with watched():
        sampler = library.llama_sampler_init_grammar(
            vocabulary.pointer, grammar.gbnf().encode(), b"root"
        )
    if not sampler:
        raise LlamacliError("llama.cpp can't read the grammar")
    try:
        constraint = Constraint(vocabulary, matcher, sampler, matcher.start())
        if not constraint.fits(constraint.place, most):
            length = matcher.ending_length(constraint.place)
            raise UsageError(
                f"the shortest answer in that shape has {length} bytes, which don't fit into "
                f"{most} tokens; raise -n or -c"
            )
        yield constraint
    finally:
        library.llama_sampler_free(sampler)


class _Candidates:
    """llama.cpp's llama_token_data_array over a vocabulary's logits."""

    def __init__(self, library: Any, logits: NDArray[np.float32]) -> None:
        self.library = library
        self.items = np.zeros(len(logits), CANDIDATE)
        self.items["id"] = np.arange(len(logits), dtype=np.int32)
        self.items["logit"] = logits
        data = cast(self.items.ctypes.data, POINTER(library.llama_token_data))
        self.array = library.llama_token_data_array(data, len(logits), -1, False)

    def apply(self, sampler: Any) -> "_Candidates":
        self.library.llama_sampler_apply(sampler, byref(self.array))
        return self

    def chosen(self) -> int:
        return int(self.array.data[self.array.selected].id)

    def logits(self) -> NDArray[np.float32]:
        """By token id, for samplers that leave the array as long as it was."""
        values = np.empty(len(self.items), np.float32)
        values[self.items["id"]] = self.items["logit"]
        return values


def _byte_tokens(vocabulary: Vocabulary) -> dict[int, int]:
    """The token of each byte, as far as the vocabulary has one."""
    found: dict[int, int] = {}
    for token in range(vocabulary.size):
        piece = vocabulary.piece(token)
        if len(piece) == 1 and token not in vocabulary.control_tokens:
            found.setdefault(piece[0], token)
        if len(found) == 256:
            break
    return found


@contextmanager
def watched() -> Iterator[None]:
    """End the process with a line and code 3 where llama.cpp is stuck in a grammar.

    A call into C can't be interrupted otherwise; a few grammars branch without bound on a long
    token.
    """

    def give_up() -> None:
        print("llamacli: the grammar is too ambiguous to follow; simplify it", file=sys.stderr)
        sys.stderr.flush()
        os._exit(3)

    timer = threading.Timer(PATIENCE, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
