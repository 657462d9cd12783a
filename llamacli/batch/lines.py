"""The lines of a batch: text or JSON, one prompt each, and what an earlier run already answered."""

import codecs
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llamacli.errors import InvalidModelError, UsageError
from llamacli.prompt import Message, check_messages, decode

NUMBERS = {"temperature": float, "top_k": int, "top_p": float, "min_p": float,
           "repeat_penalty": float, "seed": int, "max_tokens": int}  # fmt: skip
KEYS = {"id", "prompt", "messages", "system", "stop", *NUMBERS}
UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
LOOKED_AT = 4096  # bytes at a file's start, by which text is told from what is none
PLACE = re.compile(r"\{\{|\}\}|\{(\w+)\}")


@dataclass(frozen=True)
class Request:
    """One line's conversation and its own settings, by the names that SamplingSettings has."""

    id: Any
    messages: tuple[Message, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class BadLine:
    """What was wrong with a line."""

    id: Any
    error: str


def read_lines(
    data: bytes, *, template: str | None = None, system: str | None = None, replace: bool = False
) -> Iterator[Request | BadLine]:
    """A Request or a BadLine for each line that isn't blank.

    The lines are JSON where the first of them begins with a brace or one is a JSON object, else
    text. A line's id is its number from 1 where it gives none; an id that was there already makes a
    bad line. Raises UsageError for what is no text; replace lets it through.
    """
    if data.startswith(UTF16):
        data = decode(data, "what is read", "replace" if replace else "strict").encode()
    elif b"\0" in data[:LOOKED_AT] and not replace:
        raise UsageError("what is read has null bytes: it is no text; name another file")
    data = data.removeprefix(codecs.BOM_UTF8)
    lines = [(i + 1, line) for i, line in enumerate(data.split(b"\n")) if line.strip()]
    is_json = any(_is_object(line, first=i == 0) for i, (_, line) in enumerate(lines))
    seen: dict[str, int] = {}
    for number, raw in lines:
        identity: Any = number
        try:
            line = _decode(raw, replace)
            fields = _object(line) if is_json else {"text": line}
            identity = _identity(fields, number, seen)
            yield _request(identity, fields, template, system, is_json)
        except UsageError as error:
            # By its number where the id is bad: of the other one an output has an answer.
            yield BadLine(identity, f"line {number}: {error}")


def key_of(identity: Any) -> str:
    """An id as it is compared: 1 and "1" are two."""
    return json.dumps(identity, ensure_ascii=False)


def _identity(fields: Mapping[str, Any], number: int, seen: dict[str, int]) -> Any:
    """The line's id, its number where it gives none; seen has where each one was first."""
    identity = fields.get("id", number)
    if identity is None or isinstance(identity, dict | list | bool | float):
        raise UsageError(f"the id is a text or a whole number, not {identity!r}")
    if isinstance(identity, str) and any("\ud800" <= c <= "\udfff" for c in identity):
        raise UsageError("the id has half a surrogate pair, which is no text")
    if (first := seen.setdefault(key_of(identity), number)) != number:
        raise UsageError(f"the id {identity!r} was on line {first} already")
    return identity


def read_output(path: Path) -> tuple[dict[str, bool], int]:
    """What an output file already holds: by id whether it is an answer (or an error), and the
    length in bytes up to which its lines are whole. A last line that is cut doesn't count; a file
    that isn't there yet is as an empty one.

    Raises InvalidModelError where another line isn't one of a batch's output.
    """
    succeeded, whole = dict[str, bool](), 0
    *lines, _ = (path.read_bytes() if path.exists() else b"").split(b"\n")
    for number, line in enumerate(lines, 1):
        try:
            fields = json.loads(line.decode())
            succeeded[key_of(fields["id"])] = "error" not in fields
        except (ValueError, KeyError, TypeError, RecursionError):
            told = f"its line {number} is not from a batch"
            raise InvalidModelError(told, file=path) from None
        whole += len(line) + 1
    return succeeded, whole


def _is_object(line: bytes, *, first: bool) -> bool:
    """Whether a line makes all of them JSON; the first does where it was only meant to be."""
    if not line.lstrip().startswith(b"{"):
        return False
    try:
        return first or isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _decode(raw: bytes, replace: bool) -> str:
    try:
        text = raw.decode("utf-8", "replace" if replace else "strict")
    except UnicodeDecodeError as error:
        raise UsageError(f"not UTF-8 at its byte {error.start}") from None
    return text.removesuffix("\r")


def _object(line: str) -> dict[str, Any]:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise UsageError("not a JSON object")
    return fields


def _request(
    identity: Any, fields: dict[str, Any], template: str | None, system: str | None, is_json: bool
) -> Request:
    if not is_json:
        text = fields["text"] if template is None else fill(template, fields)
        return Request(identity, _conversation(text, system))
    if template is None and (unknown := sorted(set(fields) - KEYS)):
        raise UsageError(f"unknown field {unknown[0]!r}; there are {', '.join(sorted(KEYS))}")
    system = _text(fields, "system") if "system" in fields else system
    settings = _settings(fields)
    if template is not None:
        return Request(identity, _conversation(fill(template, fields), system), settings)
    if ("prompt" in fields) == ("messages" in fields):
        raise UsageError("give either prompt or messages")
    if "prompt" in fields:
        return Request(identity, _conversation(_text(fields, "prompt"), system), settings)
    messages = tuple(check_messages(fields["messages"], "messages"))
    if system is not None and messages[0]["role"] != "system":
        messages = ({"role": "system", "content": system}, *messages)
    return Request(identity, messages, settings)


def has_place(template: str) -> bool:
    """Whether anything of a line goes into the template."""
    return any(place[1] for place in PLACE.finditer(template))


def fill(template: str, fields: Mapping[str, Any]) -> str:
    """The template with each {name} replaced by that field; {{ and }} are single braces.

    Raises UsageError where a field isn't there, or the text is blank.
    """

    def value(place: re.Match[str]) -> str:
        name = place[1]
        if name is None:
            return place[0][0]
        if name not in fields:
            raise UsageError(f"the template wants {{{name}}}, which isn't there")
        field = fields[name]
        return field if isinstance(field, str) else json.dumps(field, ensure_ascii=False)

    return PLACE.sub(value, template)


def _conversation(text: str, system: str | None) -> tuple[Message, ...]:
    if not text.strip():
        raise UsageError("the prompt is empty")
    asked = ({"role": "user", "content": text},)
    return asked if system is None else ({"role": "system", "content": system}, *asked)


def _settings(fields: Mapping[str, Any]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for name, kind in NUMBERS.items():
        if (value := fields.get(name)) is None:
            continue
        allowed = (int, float) if kind is float else (int,)
        if isinstance(value, bool) or not isinstance(value, allowed):
            raise UsageError(f"{name} is a {'whole ' if kind is int else ''}number, not {value!r}")
        settings[name] = value
    stop = fields.get("stop")
    if stop is not None:
        stops: Sequence[Any] = [stop] if isinstance(stop, str) else stop
        if not isinstance(stops, list) or not all(isinstance(s, str) and s for s in stops):
            raise UsageError("stop is a text or a list of texts")
        settings["stop"] = tuple(stops)
    return settings


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields[name]
    if not isinstance(value, str):
        raise UsageError(f"{name} is a text, not {value!r}")
    return value
