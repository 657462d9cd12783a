"""The forms in which Llama's generations write calls, each read from a text that begins with one.

A form's reader gets the text from the call's first character on. It gives the calls and how many
characters they take, MORE where the text so far may begin a call, or None where it doesn't.
"""

import ast
import json
import re
import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from llamacli.prompt import Message, arguments_of, read_value

MAX_CALL = 1 << 18  # characters; what is longer is text
JSON_KEYS = ("name", "parameters", "arguments", "type", "function", "id")
PYTHON_TAG = "<|python_tag|>"
FUNCTION_TAG = "<function="
CALL_TAG, CALL_END = "<tool_call>", "</tool_call>"
CALL_MARKERS = (PYTHON_TAG, CALL_TAG, CALL_END)  # may be control tokens
CODE_TOOLS = ("ipython", "code_interpreter", "python")
JSON_NAMES = {"true": True, "false": False, "null": None}
SEPARATORS = " \t\r\n;,"

Read = tuple[list["Call"], int] | Literal["more"] | None
MORE: Literal["more"] = "more"


@dataclass(frozen=True)
class Call:
    """A tool's name and its arguments, an object of JSON."""

    name: str
    arguments: dict[str, Any]


def message_of(calls: Sequence[Call], text: str = "", first: int = 0) -> Message:
    """The assistant's message with those calls, whose ids count from first."""
    return {
        "role": "assistant",
        "content": text or None,
        "tool_calls": [
            {
                "id": f"call_{number}",
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for number, call in enumerate(calls, first)
        ],
    }


def read_object(text: str, names: Collection[str]) -> Read:
    """{"name": …, "parameters": {…}}, and its kin, or None."""
    if not _may_be_call(text, names):
        return None
    end = _end(text, '"')
    if end is None:
        return MORE if len(text) < MAX_CALL else None
    calls = _calls(read_value(text[:end]), names)
    return None if calls is None else (calls, end)


def read_list(text: str, names: Collection[str]) -> Read:
    """[{"name": …}, …] or Llama 3.2's [f(a=1), g()]."""
    inside = text[1:].lstrip()
    word = re.match(r"[\w.-]*", inside)
    name = word.group() if word else ""
    if inside.startswith("{"):
        if not _may_be_call(inside, names):
            return None
        end = _end(text, '"')
    elif inside and name not in names:
        open_name = name == inside and any(one.startswith(name) for one in names)
        return MORE if open_name else None
    elif (after := inside[len(name) :].lstrip()) and not after.startswith("("):
        return None
    else:
        end = _end(text, "\"'")
    if end is None:
        return MORE if len(text) < MAX_CALL else None
    literal = text[:end]
    objects = inside.startswith("{")
    calls = _calls(read_value(literal), names) if objects else read_python(literal, names)
    return None if calls is None else (calls, end)


def read_function(text: str, names: Collection[str]) -> Read:
    """<function=name>{…}</function>."""
    name, closed, rest = text[len(FUNCTION_TAG) :].partition(">")
    if not closed:
        return MORE if any(one.startswith(name) for one in names) else None
    body = rest.lstrip()
    if name not in names or (body and not body.startswith("{")):
        return None
    end = _end(body, '"')
    if end is None:
        return MORE if len(text) < MAX_CALL else None
    arguments = read_value(body[:end])
    if not isinstance(arguments, dict):
        return None
    return _closed([Call(name, arguments)], text, body[end:], "</function>")


def read_call(text: str, names: Collection[str]) -> Read:
    """<tool_call>{"name": …, "arguments": {…}}</tool_call>, as Hermes' fine-tunes write it."""
    body = text[len(CALL_TAG) :].lstrip()
    if not body:
        return MORE
    read = read_object(body, names)
    return _closed(read[0], text, body[read[1] :], CALL_END) if isinstance(read, tuple) else read


def _closed(calls: list[Call], text: str, rest: str, closing: str) -> Read:
    """The calls of a text that ends with rest, where that begins with what closes them."""
    after = rest.lstrip()
    if not after.startswith(closing):
        return MORE if closing.startswith(after) else None
    return calls, len(text) - len(after) + len(closing)


def read_tagged(text: str, names: Collection[str], *, cut: bool) -> list[Call] | None:
    """All that follows <|python_tag|>, until the answer's end: JSON, calls in Python, or code.

    Code that may be cut is none: any start of a call would be some.
    """
    given = text.strip()
    if not given:
        return None
    calls = read_objects(given, names) or read_python(given, names)
    if (
        calls is None
        and not cut
        and (code := next((name for name in CODE_TOOLS if name in names), None))
    ):
        return [Call(code, {"code": given})]
    return calls


def read_objects(text: str, names: Collection[str]) -> list[Call] | None:
    """One or several objects or lists of them in a row, and nothing else."""
    calls: list[Call] = []
    while text := text.strip(SEPARATORS):
        read = read_object if text.startswith("{") else read_list
        call = read(text, names) if text[0] in "{[" else None
        if not isinstance(call, tuple):
            return None
        calls += call[0]
        text = text[call[1] :]
    return calls or None


def read_python(text: str, names: Collection[str]) -> list[Call] | None:
    """f(a=1), f.call(a=1), or a list of such, their arguments literals of Python's or JSON's."""
    if len(text) > MAX_CALL:
        return None
    try:
        with warnings.catch_warnings(action="ignore"):  # of odd escapes in a string
            tree = ast.parse(text, mode="eval").body
        nodes = tree.elts if isinstance(tree, ast.List | ast.Tuple) else [tree]
        calls = [_python_call(node, names) for node in nodes]
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return None
    return [call for call in calls if call] if calls and all(calls) else None


def _python_call(node: ast.expr, names: Collection[str]) -> Call | None:
    if not isinstance(node, ast.Call) or node.args:
        return None
    name = ast.unparse(node.func)
    if name not in names:
        name = name.removesuffix(".call")
    if name not in names or not all(keyword.arg for keyword in node.keywords):
        return None
    arguments = {str(keyword.arg): _literal(keyword.value) for keyword in node.keywords}
    return Call(name, read_value(json.dumps(arguments, allow_nan=False)))


def _literal(node: ast.expr) -> Any:
    """A literal's value, true, false and null among them. Raises ValueError."""
    for one in ast.walk(node):
        if isinstance(one, ast.Name) and one.id in JSON_NAMES:
            one.id = repr(JSON_NAMES[one.id])
    return ast.literal_eval(ast.unparse(node))


def _calls(value: Any, names: Collection[str]) -> list[Call] | None:
    """The calls of a JSON value; None where it isn't calls alone, of tools that there are."""
    given = value if isinstance(value, list) else [value]
    calls = [_call(one, names) for one in given]
    return [call for call in calls if call] if calls and all(calls) else None


def _call(value: Any, names: Collection[str]) -> Call | None:
    if not isinstance(value, dict) or value.keys() - set(JSON_KEYS):
        return None
    function = value.get("function")
    if isinstance(function, dict):
        return _call(function, names)
    name = value.get("name", function)
    arguments = arguments_of(value.get("parameters", value.get("arguments", {})) or {})
    if not isinstance(name, str) or name not in names or arguments is None:
        return None
    return Call(name, arguments)


def _may_be_call(text: str, names: Collection[str]) -> bool:
    """Whether an object's first key, and a first value that is a name, may be a call's."""
    head = re.match(r'\{\s*(?:"(\w*)(?:("\s*)(?::\s*(?:"([^"\\]*)("?))?)?)?)?', text)
    if head is None:
        return False
    key, closed, value, ended = head.groups()
    rest = text[head.end() :]
    if key is None:
        return not rest
    if closed is None:
        return not rest and any(one.startswith(key) for one in JSON_KEYS)
    if key not in JSON_KEYS:
        return False
    if value is None or key not in ("name", "type", "function"):
        return not rest or value is not None or rest[0] in "{:"
    allowed = ("function",) if key == "type" else names
    if ended:
        return value in allowed
    return not rest and any(one.startswith(value) for one in allowed)


def _end(text: str, quotes: str) -> int | None:
    """Where the bracket that text begins with is closed, strings aside; None where it isn't."""
    depth = place = 0
    for bracket in re.finditer(rf"[\[\](){{}}]|[{quotes}]", text):
        if bracket.start() < place:
            continue
        sign = bracket.group()
        if sign in quotes:
            end = re.compile(rf"(?:[^{sign}\\]|\\.)*{sign}", re.DOTALL).match(text, bracket.end())
            if end is None:
                return None
            place = end.end()
        elif sign in "[({":
            depth += 1
        else:
            depth -= 1
            if depth == 0:
                return bracket.end()
    return None
