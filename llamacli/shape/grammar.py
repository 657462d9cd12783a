"""A grammar that llguidance has taken, and its shortest text."""

from dataclasses import dataclass
from functools import cache

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from llamacli.errors import InvalidModelError
from llamacli.shape.ending import MAX_ENDING, Ending

# Smaller than llguidance's own limits, so that a hostile grammar ends in moments.
LIMITS = LLParserLimits(max_grammar_size=200_000, max_lexer_states=50_000, verbose_errors=False)


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
