"""The shape that an answer is held to: a JSON Schema, a grammar, or a choice of words."""

from collections.abc import Sequence
from pathlib import Path

from llamacli.engine import Vocabulary
from llamacli.errors import UsageError
from llamacli.prompt import read_file
from llamacli.shape.grammar import Builder, Grammar


def read_shape(
    schema: Path | None, gbnf: Path | None, choices: Sequence[str], stop: Sequence[str]
) -> Grammar | None:
    """The grammar of the one that is given; None where none is.

    Raises UsageError, NotFoundError, and InvalidModelError for a file that can't be honoured.
    """
    given = [name for name, value in _named(schema, gbnf, choices) if value]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} exclude each other")
    if given and stop:
        raise UsageError(f"--stop would cut an answer that {given[0]} keeps whole")
    if schema is not None:
        from llamacli.shape.schema import read_schema

        return read_schema(read_file(schema).text)
    if gbnf is not None:
        from llamacli.shape.gbnf import read_gbnf

        return read_gbnf(read_file(gbnf).text)
    return choice_grammar(choices) if choices else None


def choice_grammar(words: Sequence[str]) -> Grammar:
    """One of the words, to the letter."""
    if not all(word.strip() for word in words):
        raise UsageError("a --choice is empty")
    builder = Builder()
    root = builder.reserve("root")
    builder.define(root, [builder.text(word) for word in words])
    return builder.finish()


def check_choices(words: Sequence[str], vocabulary: Vocabulary, most: int) -> None:
    """Raises UsageError where a word doesn't fit into most tokens: it could never be chosen."""
    for word in words:
        if (count := len(vocabulary.tokenize(word))) > most:
            raise UsageError(f"the choice {word!r} takes {count} tokens, {most} are left for it")


def _named(
    schema: Path | None, gbnf: Path | None, choices: Sequence[str]
) -> list[tuple[str, object]]:
    return [("--schema", schema), ("--grammar", gbnf), ("--choice", choices)]
