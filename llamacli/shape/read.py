"""The shape that an answer is held to: a JSON Schema, a grammar, or a choice of words."""

import re
from collections.abc import Sequence

from llamacli.engine import Vocabulary
from llamacli.errors import UsageError
from llamacli.shape.gbnf import read_gbnf
from llamacli.shape.grammar import Grammar
from llamacli.shape.schema import read_schema

NO_TEXT = "[\0\ud800-\udfff]"  # NUL, and half a surrogate pair, as of bytes that aren't UTF-8


def read_shape(
    *, schema: str | None = None, grammar: str | None = None, choice: Sequence[str] = ()
) -> Grammar:
    """The grammar of the one that is given, a file's text or words.

    Raises UsageError, and InvalidModelError for what can't be honoured.
    """
    if schema is not None:
        return read_schema(schema)
    return choice_grammar(choice) if grammar is None else read_gbnf(grammar)


def choice_grammar(words: Sequence[str]) -> Grammar:
    """One of the words, to the letter."""
    for word in words:
        if not word.strip():
            raise UsageError("a --choice is empty")
        if not word.isprintable() and re.search(NO_TEXT, word):
            raise UsageError(f"the --choice {word!a} is not a text")
    literals = ("".join(f"\\U{ord(character):08X}" for character in word) for word in words)
    return read_gbnf("root ::= " + " | ".join(f'"{literal}"' for literal in literals))


def check_choices(words: Sequence[str], vocabulary: Vocabulary, most: int) -> None:
    """Raises UsageError where a word doesn't fit into most tokens: it could never be chosen."""
    for word in words:
        if (count := len(vocabulary.tokenize(word))) > most:
            raise UsageError(f"the choice {word!r} takes {count} tokens, {most} are left for it")
