"""Tools' definitions as OpenAI's API has them, a list of functions with JSON Schemas, checked; and
what tools gave, bounded before a model reads it."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llamacli.errors import InvalidModelError, UsageError
from llamacli.prompt import NO_PARAMETERS, RESULT_ROLES, Message, parse_json
from llamacli.shape import read_schema

NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")  # Anthropic's API allows that many
MOST_TOOLS = 128  # as OpenAI's API allows
OUTPUT_LIMIT = 32_768  # characters of a tool's result that are read without --tool-output-limit
NOTHING = "(the tool gave nothing)"
STOPPED = "Error: the user stopped this call."


class WrongTool(UsageError):
    """index is the tool's place in the list; part says which of its fields is wrong, if one is."""

    def __init__(self, index: int, text: str, part: str = "") -> None:
        super().__init__(text)
        self.index, self.part = index, part


@dataclass(frozen=True)
class Tool:
    """A function that the model may call. given is its definition, as templates print it."""

    name: str
    parameters: dict[str, Any]
    given: dict[str, Any]


def read_tools(text: str, name: str) -> list[Tool]:
    """The tools of a JSON text; name is where it came from. Raises UsageError."""
    given = parse_json(text, name)
    try:
        return check_tools(given)
    except UsageError as error:
        raise UsageError(f"{name}: {error}") from None


def check_tools(given: Any) -> list[Tool]:
    """Tools from a list of {type: function, function: {name, description, parameters}}.

    Raises UsageError, a WrongTool where one of them is wrong; also where its parameters can't be
    honoured.
    """
    if not isinstance(given, list) or not given:
        raise UsageError("tools are a list of {type: function, function: {name, parameters}}")
    if len(given) > MOST_TOOLS:
        raise UsageError(f"there are {len(given)} tools; at most {MOST_TOOLS} are read")
    tools = list(map(_tool, range(len(given)), given))
    names = [tool.name for tool in tools]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise WrongTool(index, f"two tools are called {name}", "name")
    return tools


def chosen_tools(tools: Sequence[Tool], name: str) -> list[Tool]:
    """The one tool of that name. Raises UsageError where there is none."""
    chosen = [tool for tool in tools if tool.name == name]
    if not chosen:
        raise UsageError(
            f"no tool is called {name!r}; there are {', '.join(t.name for t in tools)}"
        )
    return chosen


def _tool(index: int, given: Any) -> Tool:
    number = index + 1
    if not isinstance(given, dict) or given.get("type", "function") != "function":
        raise WrongTool(index, f"tool {number} is no {{type: function, function: {{…}}}}", "type")
    function = given.get("function")
    if not isinstance(function, dict):
        raise WrongTool(index, f"tool {number} has no function", "function")
    name, parameters = function.get("name"), function.get("parameters", NO_PARAMETERS)
    if not isinstance(name, str) or not NAME.fullmatch(name):
        told = "has no name of at most 128 letters, digits, '_', '.' and '-'"
        raise WrongTool(index, f"tool {number} {told}", "name")
    if not isinstance(function.get("description", ""), str):
        raise WrongTool(index, f"the description of {name} is not a text", "description")
    if not isinstance(parameters, dict) or parameters.get("type", "object") != "object":
        told = f"the parameters of {name} are no JSON Schema of an object"
        raise WrongTool(index, told, "parameters")
    try:
        read_schema(json.dumps({"type": "object", **parameters}))
    except (InvalidModelError, UsageError) as error:
        raise WrongTool(index, f"the parameters of {name}: {error}", "parameters") from None
    return Tool(name, {"type": "object", **parameters}, {"type": "function", **given})


def bounded(messages: Sequence[Message], limit: int = OUTPUT_LIMIT) -> list[Message]:
    """The messages, with the middle of each longer result cut out and what is missing told.

    Raises UsageError where the limit is none.
    """
    if limit < 1:
        raise UsageError(f"the limit of a tool's output is {limit}; give 1 character or more")
    return [
        {**message, "content": _bounded(message["content"], limit)}
        if message["role"] in RESULT_ROLES and isinstance(message["content"], str)
        else message
        for message in messages
    ]


def _bounded(text: str, limit: int) -> str:
    missing = len(text) - limit
    if missing <= 0:
        return text
    head = limit - limit // 2
    tail = text[len(text) - limit // 2 :]
    return f"{text[:head]}\n[... {missing} of {len(text)} characters were cut here ...]\n{tail}"
