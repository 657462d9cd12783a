"""llamacli tokens: texts and conversations as tokens, and tokens found in the vocabulary."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from llamacli import engine, prompt, show as showing, terminal
from llamacli.commands import options
from llamacli.commands.printing import print_json, print_text
from llamacli.commands.show import open_source
from llamacli.errors import UsageError


def tokens(
    model: options.ModelOrFolder,
    text: Annotated[str | None, typer.Argument, "What to tokenize; else stdin."] = None,
    find: Annotated[
        str | None, "List the vocabulary's tokens that contain this, in any case."
    ] = None,
    exact: Annotated[bool, "With --find: the token that is exactly this."] = False,
    regex: Annotated[bool, "With --find: a regular expression, for tokens as printed."] = False,
    messages: Annotated[
        Path | None, "The prompt of a conversation: JSON [{role, content}, …]; - is stdin."
    ] = None,
    date: options.Date = None,
    special: Annotated[bool, "Spellings of control tokens in TEXT become them."] = False,
    errors: options.Errors = "strict",
    ids: Annotated[bool, "Ids alone."] = False,
    as_json: options.AsJson = False,
) -> None:
    """Print the tokens of a text, a conversation's prompt, or a search, one a line: ID and text.

    Only the vocabulary is loaded. A text's tokens come alone, without the one that begins a
    prompt.
    """
    options.exclusive(TEXT=text, find=find, messages=messages)
    if (exact or regex) and find is None:
        raise UsageError("--exact and --regex go with --find")
    if exact and regex:
        raise UsageError("--exact and --regex exclude each other; use ^ and $ in a pattern")
    if special and (find is not None or messages is not None):
        raise UsageError("--special goes with TEXT")
    if date is not None and messages is None:
        raise UsageError("--date goes with --messages")
    source = open_source(model)
    if find is not None:
        found = showing.find_tokens(showing.read_tokens(source), find, exact=exact, regex=regex)
        by_id = {token.id: token for token in found}

        def searched(token: int) -> dict[str, Any]:
            return {"id": token, "token": by_id[token].written, "text": by_id[token].text}

        _print(list(by_id), ids, as_json, searched, lambda t: terminal.printable(by_id[t].written))
        if not found:
            terminal.notice("no token was found")
        return
    vocabulary = _vocabulary(source)
    if messages is not None:
        encoded = _encode_messages(source, vocabulary, messages, date, errors)
    else:
        encoded = vocabulary.tokenize(_read(text, errors), special=special)

    def described(token: int) -> dict[str, Any]:
        piece = vocabulary.piece(token)
        return {
            "id": token,
            "piece": piece.decode(errors="replace"),
            "bytes": list(piece),
            "control": token in vocabulary.control_tokens,
        }

    _print(encoded, ids, as_json, described, lambda t: terminal.quoted(vocabulary.piece(t)))


def _print(
    tokens: list[int],
    ids: bool,
    as_json: bool,
    describe: Callable[[int], dict[str, Any]],
    spell: Callable[[int], str],
) -> None:
    if as_json:
        print_json(tokens if ids else [describe(token) for token in tokens])
    else:
        lines = (f"{token}\n" if ids else f"{token} {spell(token)}\n" for token in tokens)
        print_text("".join(lines))


def _vocabulary(source: "showing.Source") -> "engine.Vocabulary":
    if isinstance(source, Path):
        return showing.folder_vocabulary(source)
    return engine.load_vocabulary(source.path)


def _read(text: str | None, errors: "prompt.Errors | None") -> str:
    return prompt.decode(prompt.read_bytes(Path("-")), "stdin", errors) if text is None else text


def _encode_messages(
    source: "showing.Source",
    vocabulary: "engine.Vocabulary",
    path: Path,
    date: datetime | None,
    errors: "prompt.Errors | None",
) -> list[int]:
    given = prompt.read_file(path, errors)
    messages = prompt.read_messages(given.text, given.name)
    template = showing.find_template(source)
    if template is None:
        terminal.notice("the model has no template of its own; Llama 3's is used")
    return prompt.encode_chat(vocabulary, template or None, messages, date=date)
