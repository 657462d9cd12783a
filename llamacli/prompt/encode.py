"""Conversations to tokens: only the template's own markers become control tokens."""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from llamacli.engine import Engine, Vocabulary
from llamacli.errors import UsageError
from llamacli.prompt.messages import Message
from llamacli.prompt.template import LLAMA3_TEMPLATE, render

# Unicode's noncharacters: no text has a use for them, no template trims them.
NONCHARACTERS = [chr(code) for code in range(0xFDD0, 0xFDF0)]


def encode_chat(
    vocabulary: Vocabulary,
    template: str,
    messages: Sequence[Mapping[str, Any]],
    *,
    add_generation_prompt: bool = True,
    tools: Sequence[Mapping[str, Any]] | None = None,
    date: datetime | None = None,
) -> list[int]:
    """The tokens of a conversation's prompt.

    A mark is put after every character of the messages that could start a control token's
    spelling. The rendered text is cut at the spellings that are still whole, which only the
    template can have written; the marks are taken out, and what lies between is tokenized as
    plain text.
    """
    mark = _unused_character([messages, tools])
    starts = {spelling[0] for spelling in vocabulary.special_tokens}
    text = render(
        template,
        _marked(messages, starts, mark),
        add_generation_prompt=add_generation_prompt,
        tools=_marked(tools, starts, mark),
        date=date,
        bos_token=_spelling(vocabulary, vocabulary.bos),
        eos_token=_spelling(vocabulary, vocabulary.eos),
    )
    tokens: list[int] = []
    for i, part in enumerate(_split(text, vocabulary)):
        if i % 2:
            tokens.append(vocabulary.special_tokens[part])
        elif plain := part.replace(mark, ""):
            tokens += vocabulary.tokenize(plain)
    starts_with_bos = bool(tokens) and tokens[0] == vocabulary.bos
    if vocabulary.add_bos and vocabulary.bos is not None and not starts_with_bos:
        tokens.insert(0, vocabulary.bos)
    return tokens


def encode_turns(
    engine: Engine, messages: Sequence[Message], *, date: datetime | None = None
) -> list[int]:
    """The prompt's tokens by the model's own template, else by Llama 3's."""
    template = engine.file.metadata.get("tokenizer.chat_template") or LLAMA3_TEMPLATE
    return encode_chat(engine.vocabulary, template, messages, date=date)


def encode_raw(vocabulary: Vocabulary, text: str, *, special: bool = False) -> list[int]:
    """Text as it stands, after one BOS where the model wants it."""
    tokens = vocabulary.tokenize(text, special=special)
    if vocabulary.add_bos and vocabulary.bos is not None and tokens[:1] != [vocabulary.bos]:
        tokens.insert(0, vocabulary.bos)
    return tokens


def _spelling(vocabulary: Vocabulary, token: int | None) -> str:
    return "" if token is None else vocabulary.piece(token).decode(errors="replace")


def _split(text: str, vocabulary: Vocabulary) -> list[str]:
    """Plain text and spellings in turn, the longest spelling first, as Hugging Face cuts it.

    A regular expression of all spellings takes longer to compile than the whole prompt to encode.
    """
    special = vocabulary.special_tokens
    lengths = sorted(set(map(len, special)), reverse=True)
    starts = re.compile(f"[{re.escape(''.join({s[0] for s in special}))}]") if special else None
    parts, done, place = [], 0, 0
    while starts and (found := starts.search(text, place)):
        place = found.start()
        for length in lengths:
            if (spelling := text[place : place + length]) in special:
                parts += [text[done:place], spelling]
                done = place = place + length
                break
        else:
            place += 1
    return [*parts, text[done:]]


def _unused_character(value: Any) -> str:
    text = repr(value)
    try:
        return next(c for c in NONCHARACTERS if repr(c)[1:-1] not in text)
    except StopIteration:
        raise UsageError("the messages hold every noncharacter of Unicode") from None


def _marked(value: Any, starts: set[str], mark: str) -> Any:
    """A copy of value whose texts have the mark after every character of starts."""
    if isinstance(value, str):
        return "".join(c + mark if c in starts else c for c in value)
    if isinstance(value, Mapping):
        return {_marked(k, starts, mark): _marked(v, starts, mark) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_marked(item, starts, mark) for item in value]
    return value
