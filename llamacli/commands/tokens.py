"""llamacli tokens: texts and conversations as tokens, and tokens found in the vocabulary."""

from collections.abc import Iterable, Sequence
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
    given = {"TEXT": text, "--find": find, "--messages": messages}
    used = [name for name, value in given.items() if value is not None]
    if len(used) > 1:
        raise UsageError(f"{' and '.join(used)} exclude each other")
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
        _find(source, find, exact, regex, ids, as_json)
        return
    vocabulary = _vocabulary(source)
    if messages is not None:
        encoded = _encode_messages(source, vocabulary, messages, date, errors)
    else:
        encoded = vocabulary.tokenize(_read(text, errors), special=special)
    _print(vocabulary, encoded, ids, as_json)


def _find(
    source: "showing.Source", find: str, exact: bool, regex: bool, ids: bool, as_json: bool
) -> None:
    matches = showing.find_tokens(showing.read_tokens(source), find, exact=exact, regex=regex)
    if as_json:
        rows = [{"id": t.id, "token": t.written, "text": t.text} for t in matches]
        print_json([token.id for token in matches] if ids else rows)
    else:
        _print_lines(
            f"{t.id}" if ids else f"{t.id} {terminal.printable(t.written)}" for t in matches
        )
    if not matches:
        terminal.notice("no token was found")


def _print(
    vocabulary: "engine.Vocabulary", encoded: Sequence[int], ids: bool, as_json: bool
) -> None:
    if as_json:
        print_json(list(encoded) if ids else [_as_object(vocabulary, token) for token in encoded])
    elif ids:
        _print_lines(map(str, encoded))
    else:
        _print_lines(f"{token} {terminal.quoted(vocabulary.piece(token))}" for token in encoded)


def _as_object(vocabulary: "engine.Vocabulary", token: int) -> dict[str, Any]:
    piece = vocabulary.piece(token)
    fields = {
        "id": token,
        "piece": piece.decode(errors="replace"),
        "bytes": list(piece),
        "control": token in vocabulary.control_tokens,
    }
    return fields


def _print_lines(lines: Iterable[str]) -> None:
    print_text("".join(f"{line}\n" for line in lines))


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
