"""Conversations in JSON: a list of messages with role and content, calls and results, checked."""

import json
import sys
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

from llamacli.errors import UsageError

ROLES = ("system", "user", "assistant", "tool", "ipython")
RESULT_ROLES = ("tool", "ipython")
LARGEST = sys.float_info.max
DIGITS = 300  # of the whole numbers that are read to the last one
NO_PARAMETERS = {"type": "object", "properties": {}}  # of a function that takes none
KEYS = {"role", "content", "name", "tool_calls", "tool_call_id"}

# role and content, which is null beside tool_calls; name and tool_call_id where a result has them;
# tool_calls as OpenAI writes them, their arguments an object.
Message = dict[str, Any]


def read_messages(text: str, name: str) -> list[Message]:
    """The messages of a JSON text; name is where it came from, for errors.

    Raises UsageError that says which message is wrong, and how.
    """
    return check_messages(parse_json(text, name), name)


def parse_json(text: str, name: str) -> Any:
    """The value of a JSON text; name is where it came from. Raises UsageError."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{name} is not JSON: {error}") from None


def check_messages(given: Any, name: str) -> list[Message]:
    """The same of a JSON value."""
    if not isinstance(given, list) or not given:
        raise UsageError(f"{name} is not a list of messages, [{{role, content}}, …]")
    for number, message in enumerate(given, 1):
        if wrong := problem(message):
            raise UsageError(f"{name}: message {number} {wrong}")
    return list(map(normal, given))


def problem(message: Any) -> str | None:
    """What is wrong with a message from a stranger, or None."""
    if not isinstance(message, dict):
        return "is not an object with role and content"
    if unknown := sorted(message.keys() - KEYS):
        return f"has the unknown key {unknown[0]!r}; {', '.join(sorted(KEYS))} are read"
    if "role" not in message:
        return "has no role"
    role = message["role"]
    if not isinstance(role, str):
        return "has a role that is not a text"
    if role not in ROLES:
        return f"has the role {role!r}, none of {', '.join(ROLES)}"
    for key in ("name", "tool_call_id"):
        if not isinstance(message.get(key, ""), str):
            return f"has a {key} that is not a text"
    if "tool_calls" in message and role != "assistant":
        return f"has tool_calls, and the role {role}; only an assistant calls"
    return _calls_problem(message.get("tool_calls")) or _content_problem(message)


def normal(message: Message) -> Message:
    """A message that problem finds nothing wrong with, as templates read it.

    Parts of text are one text, and a call's arguments are an object where they are JSON of one.
    """
    result = dict(message)
    if isinstance(message.get("content"), list):
        result["content"] = "".join(part["text"] for part in message["content"])
    if calls := message.get("tool_calls"):
        result.setdefault("content", None)
        result["tool_calls"] = list(map(_normal_call, calls))
    else:
        result.pop("tool_calls", None)
    return result


def as_openai(message: Message) -> Message:
    """A message that normal gave, as OpenAI's API has it: a call's arguments are a text."""
    if not message.get("tool_calls"):
        return message
    calls = []
    for call in message["tool_calls"]:
        arguments = json.dumps(call["function"]["arguments"], ensure_ascii=False)
        calls.append({**call, "function": {**call["function"], "arguments": arguments}})
    return {**message, "tool_calls": calls}


def _content_problem(message: Message) -> str | None:
    content = message.get("content")
    if content is None:
        if message.get("tool_calls"):
            return None
        return "has no content" if "content" not in message else "has no content and no tool_calls"
    if isinstance(content, str):
        return None
    if not isinstance(content, list):
        return "has a content that is not a text"
    for part in content:
        is_text = isinstance(part, dict) and part.get("type") == "text"
        if not is_text or not isinstance(part.get("text"), str):
            return "has a content with a part that is no {type: text, text}"
    return None


def _calls_problem(calls: Any) -> str | None:
    if calls is None:
        return None
    if not isinstance(calls, list):
        return "has tool_calls that are not a list"
    for call in calls:
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            return "has a call that is no {type: function, function: {name, arguments}}"
        if call.get("type", "function") != "function":
            return f"has a call of the type {call['type']!r}; function is read"
        if not isinstance(call.get("id", ""), str):
            return "has a call whose id is not a text"
        if arguments_of(function.get("arguments")) is None:
            return f"calls {function['name']} with arguments that are no JSON object"
    return None


def arguments_of(given: Any) -> dict[str, Any] | None:
    """A call's arguments, an object or JSON of one, as an object; None where they are neither."""
    if isinstance(given, str):
        given = read_value(given) if given.strip() else {}
    return given if isinstance(given, dict) else None


def read_value(text: str) -> Any:
    """A JSON value; None where text is none, or has numbers that JSON doesn't.

    Of numbers that a double can't hold it has the double that is nearest: all can be written again.
    """

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    try:
        return json.loads(text, parse_constant=refuse, parse_float=_double, parse_int=_whole)
    except (ValueError, RecursionError):
        return None


def _double(text: str) -> float:
    return max(-LARGEST, min(LARGEST, float(text)))


def _whole(text: str) -> float:
    return int(text) if len(text) < DIGITS else _double(text)


def _normal_call(call: dict[str, Any]) -> dict[str, Any]:
    function = call["function"]
    arguments = arguments_of(function.get("arguments"))
    return {**call, "type": "function", "function": {**function, "arguments": arguments}}


def one_call_each(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The conversation with a message for each call, its result behind it.

    Results go to their calls by tool_call_id, the others in their order; the text before the calls
    stays with the first.
    """
    apart: list[Mapping[str, Any]] = []
    place = 0
    while place < len(messages):
        message, place = messages[place], place + 1
        calls = message.get("tool_calls") or ()
        if len(calls) < 2:
            apart.append(message)
            continue
        results = list(takewhile(lambda m: m.get("role") in RESULT_ROLES, messages[place:]))
        place += len(results)
        for number, call in enumerate(calls):
            content = message.get("content") if not number else None
            apart.append({**message, "content": content, "tool_calls": [call]})
            if (result := _result_of(call, results)) is not None:
                results.remove(result)
                apart.append(result)
        apart += results
    return apart


def _result_of(
    call: Mapping[str, Any], results: Sequence[Mapping[str, Any]]
) -> Mapping[str, Any] | None:
    """The call's own result, else the first that names none."""
    named = (r for r in results if r.get("tool_call_id") is not None)
    own = next((r for r in named if r["tool_call_id"] == call.get("id")), None)
    return own or next((r for r in results if r.get("tool_call_id") is None), None)
