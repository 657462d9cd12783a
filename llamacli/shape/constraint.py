"""Answers that keep to a grammar: llguidance says which tokens may follow, llama.cpp's samplers
choose among them, and before the last token the answer is brought to its end."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import numpy as np
from llguidance import LLMatcher
from numpy.typing import NDArray

from llamacli.engine import Vocabulary, sample_among
from llamacli.errors import InvalidModelError, UsageError
from llamacli.shape.grammar import Ending, Grammar


@dataclass
class Constraint:
    """Chooses an answer's tokens one by one so that a grammar has its text.

    After each token the shortest way to the grammar's end still fits into the tokens left; where
    none would, that way is taken instead, so that the text is whole, and cut is set.

    Each sequence has its own. It may begin anywhere in an answer, with the text that comes then,
    and what it has taken can be taken back (rollback), as after draft tokens that weren't kept.
    """

    free: ClassVar[bool] = False  # whether a token may be drawn as without a constraint
    uncut: ClassVar[bool] = False  # whether stop texts are no such, as within a call
    vocabulary: Vocabulary
    matcher: LLMatcher
    ending: Ending
    cut: bool = False
    last: list[int] | None = None  # the tokens that end the answer, once it is cut
    taken: list[tuple[int, bytes | None]] = field(default_factory=list)  # bytes; the way before

    def copy(self) -> Self:
        """Another at the same place, for another answer; cheap beside making one of a grammar."""
        ending = replace(self.ending, matcher=self.ending.matcher.deep_copy())
        last = None if self.last is None else [*self.last]
        return replace(
            self, matcher=self.matcher.deep_copy(), ending=ending, last=last, taken=[*self.taken]
        )

    @property
    def done(self) -> bool:
        """Whether nothing can follow."""
        if self.last is not None:
            return not self.last
        return self.matcher.is_stopped()

    def choose(self, chain: Any, logits: NDArray[np.float32], left: int) -> int:
        """The next token, of at most left ones (1 or more) without the end token.

        chain is llama.cpp's sampler, logits are float32 of shape (vocabulary,). Raises
        InvalidModelError where the grammar grows beyond what can be followed.
        """
        if self.last is None:
            allowed = self.allowed()  # none in a vocabulary that lacks a byte, say
            if len(allowed):
                token = sample_among(self.vocabulary.library, chain, logits, allowed)
                if token in self.vocabulary.end_tokens or self.take(token, left):
                    self.vocabulary.library.llama_sampler_accept(chain, token)
                    return token
            self.cut, self.last = True, self._tokens(self.ending.way or b"") or []
        return self.last.pop(0) if self.last else self.vocabulary.eos

    def allowed(self) -> NDArray[np.int32]:
        """The tokens that may follow; an end token only where the text is whole."""
        mask = np.frombuffer(self.matcher.compute_bitmask(), np.uint8)
        _check(self.matcher)
        return np.flatnonzero(np.unpackbits(mask, bitorder="little")).astype(np.int32)

    def valid(self, tokens: Sequence[int]) -> int:
        """How many of tokens, the first ones, may follow, as of a draft."""
        return self.matcher.validate_tokens(list(tokens))

    def take(self, token: int, left: int) -> bool:
        """Go on by an allowed token, unless the end can't be reached within left tokens with it.

        Raises what choose raises.
        """
        piece, way = self.vocabulary.piece(token), self.ending.way
        self.ending.follow(piece)
        _check(self.ending.matcher)
        if not self.fits(left - 1):
            self.ending.shorten()
            if not self.fits(left - 1):
                self.ending.back(len(piece), way)
                return False
        self.matcher.consume_token(token)
        _check(self.matcher)
        self.taken.append((len(piece), way))
        return True

    def rollback(self, count: int) -> None:
        """Take back the last count tokens, none of them an end token."""
        for _ in range(count):
            self.ending.back(*self.taken.pop())
        self.matcher.rollback(count)

    def fits(self, left: int) -> bool:
        """Whether the known way to the end has at most that many tokens."""
        if (way := self.ending.way) is None:
            return False
        if len(way) <= left and way.isascii():  # a token has a byte or more
            return True
        tokens = self._tokens(way)
        return tokens is not None and len(tokens) <= left

    def _tokens(self, way: bytes) -> list[int] | None:
        """What spells way, which may begin within a character; None where no tokens do."""
        tokens = self.vocabulary.trie.tokenize_bytes(way)
        return tokens if self.vocabulary.trie.decode_bytes(tokens) == way else None


def _check(matcher: LLMatcher) -> None:
    """Raises InvalidModelError where llguidance has given up: its text looks ended then."""
    if matcher.is_error():
        raise InvalidModelError("the grammar is too ambiguous to follow; simplify it")


def constrained(vocabulary: Vocabulary, grammar: Grammar, most: int) -> Constraint:
    """A constraint for one answer of at most that many tokens.

    Raises UsageError where the shortest text of the grammar is longer.
    """
    matcher = grammar.matcher(vocabulary.trie)
    constraint = Constraint(vocabulary, matcher, grammar.ending())
    if not constraint.fits(most):
        raise UsageError(
            f"the shortest answer in that shape has {len(grammar.shortest)} bytes, which don't fit "
            f"into {most} tokens; raise -n or -c"
        )
    return constraint
