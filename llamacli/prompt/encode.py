"""Conversations to tokens: only the template's own markers become control tokens."""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from llamacli.engine import Vocabulary
from llamacli.errors import InvalidModelError, UsageError
from llamacli.gguf import TEMPLATE_KEY, TOOL_TEMPLATE_KEY, GGUFFile
from llamacli.prompt.markers import markers_of
from llamacli.prompt.messages import Message, one_call_each
from llamacli.prompt.template import LLAMA3_MARKER, LLAMA3_TEMPLATE, render


class Spelled(Protocol):
    """A model as far as its prompts go: what tells its template, and its tokens."""

    @property
    def file(self) -> GGUFFile: ...

    @property
    def vocabulary(self) -> Vocabulary: ...


class NoTools(UsageError):
    """The model's template has no place for what was given of tools."""


def encode_chat(
    vocabulary: Vocabulary,
    template: str | None,
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    date: datetime | None = None,
) -> list[int]:
    """The tokens of a conversation's prompt, by Llama 3's format where there is no template.

    The template renders the messages as they are, its own markers respelled. The text is cut at
    those; what lies between is tokenized as plain text, whatever it looks like. Where the template
    refuses several calls at once, as Llama 3.1's to 3.3's do, each goes in by itself, with its
    result. Raises InvalidModelError where there is no template and no marker of Llama 3's, and
    NoTools where the template knows no tools and there are some, or calls.
    """
    if template is None:
        template = LLAMA3_TEMPLATE
        _check_llama3(vocabulary)
    _check_tools(template, messages, tools)
    given = json.dumps([template, messages, tools], ensure_ascii=False)
    markers = markers_of(vocabulary.special_tokens, given)
    if markers is None:
        raise UsageError("the messages hold characters of every unused plane of Unicode")
    names: dict[str, Any] = {
        "tools": tools,
        "date": date,
        "markers": markers,
        "bos_token": markers.respell(_spelling(vocabulary, vocabulary.bos)),
        "eos_token": markers.respell(_spelling(vocabulary, vocabulary.eos)),
    }
    try:
        text = render(template, messages, **names)
    except InvalidModelError:
        apart = one_call_each(messages)
        if len(apart) == len(messages):
            raise
        text = render(template, apart, **names)
    tokens: list[int] = []
    written = markers.written
    for i, part in enumerate(_split(text, written)):
        if i % 2:
            tokens.append(vocabulary.special_tokens[written[part]])
        elif plain := markers.plain(part):
            tokens += vocabulary.tokenize(plain)
    # The one that the template writes stands where it wants it, be it behind a blank.
    if vocabulary.add_bos and vocabulary.bos is not None and vocabulary.bos not in tokens:
        tokens.insert(0, vocabulary.bos)
    return tokens


def encode_turns(
    model: Spelled,
    messages: Sequence[Message],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    date: datetime | None = None,
) -> list[int]:
    """The prompt's tokens by the model's own template, else by Llama 3's.

    Where there are tools, or calls, that is the one which some models have for them.
    """
    metadata = model.file.metadata
    template = metadata.get(TEMPLATE_KEY) or None
    if tools or any(message.get("tool_calls") for message in messages):
        template = metadata.get(TOOL_TEMPLATE_KEY) or template
    return encode_chat(model.vocabulary, template, messages, tools=tools, date=date)


def encode_raw(vocabulary: Vocabulary, text: str, *, special: bool = False) -> list[int]:
    """Text as it stands, after one BOS where the model wants it."""
    tokens = vocabulary.tokenize(text, special=special)
    if vocabulary.add_bos and vocabulary.bos is not None and tokens[:1] != [vocabulary.bos]:
        tokens.insert(0, vocabulary.bos)
    return tokens


def _spelling(vocabulary: Vocabulary, token: int | None) -> str:
    return "" if token is None else vocabulary.piece(token).decode(errors="replace")


def _check_llama3(vocabulary: Vocabulary) -> None:
    missing = set(LLAMA3_MARKER.findall(LLAMA3_TEMPLATE)) - vocabulary.special_tokens.keys()
    if missing:
        raise InvalidModelError(
            f"the model has no chat template, and no {min(missing)} for Llama 3's format; it may "
            "be a base model: give it text as it stands, with run --raw"
        )


def _check_tools(template: str, messages: Sequence[Mapping[str, Any]], tools: Any) -> None:
    """Llama 3's first generation has no tools: its template would leave them, or calls, out."""
    if tools and "tools" not in template:
        raise NoTools(
            "the model's chat template takes no tools; describe them in the system prompt, or use "
            "a model of Llama 3.1 or later"
        )
    if "tool_calls" not in template and any(m.get("tool_calls") for m in messages):
        raise NoTools("the model's chat template takes no calls of tools (tool_calls)")


def _split(text: str, written: Collection[str]) -> list[str]:
    """Plain text and markers in turn, the longest marker first, as Hugging Face cuts it.

    A regular expression of all markers takes longer to compile than the whole prompt to encode.
    """
    lengths = sorted(set(map(len, written)), reverse=True)
    starts = re.compile(f"[{re.escape(''.join({s[0] for s in written}))}]") if written else None
    parts, done, place = [], 0, 0
    while starts and (start := starts.search(text, place)):
        place = start.start()
        for length in lengths:
            if (marker := text[place : place + length]) in written:
                parts += [text[done:place], marker]
                done = place = place + length
                break
        else:
            place += 1
    return [*parts, text[done:]]
