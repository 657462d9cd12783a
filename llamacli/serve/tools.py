"""Tools as requests have them, in each API's form; templates read them in OpenAI's first one."""

from collections.abc import Callable, Sequence
from typing import Any

from llamacli.answer import Calling
from llamacli.errors import UsageError
from llamacli.serve.faults import Fault, invalid, unsupported
from llamacli.serve.fields import Fields, shown
from llamacli.tools import Choice, Tool, WrongTool, check_tools

WORDS = ("none", "auto", "required")
CHOICES = {"none": "none", "auto": "auto", "any": "required"}  # Anthropic's
# What a function may have besides, and changes nothing: every call is held to its schema.
ASIDE = ("strict", "cache_control", "input_examples", "eager_input_streaming", "allowed_callers",
         "defer_loading")  # fmt: skip


def read_calling(fields: Fields) -> Calling | None:
    """tools and tool_choice as chat completions have them. Raises Fault with the field's path."""
    return _function_calling(fields, lambda one: one.needed("function", one.inside))


def read_flat_calling(fields: Fields) -> Calling | None:
    """As the Responses API has them, without an object around a function."""
    return _function_calling(fields, lambda one: one)


def read_block_calling(fields: Fields) -> Calling | None:
    """As Anthropic's API has them."""
    tools = _tools(fields, lambda one: one, "custom", "input_schema")
    choice, parallel = "auto", True
    if (given := fields.inside("tool_choice")) is not None:
        kind = given.needed("type", lambda name: given.one_of(name, [*CHOICES, "tool"]))
        parallel = not given.flag("disable_parallel_tool_use")
        choice = CHOICES.get(kind) or _name(given)
        given.end()
    return _calling(fields, tools, choice, parallel)


def _function_calling(fields: Fields, holder: Callable[[Fields], Fields]) -> Calling | None:
    """holder gives the part of a tool, and of a tool_choice, that has the function's name."""
    tools = _tools(fields, holder)
    given, where = fields.take("tool_choice"), fields.where("tool_choice")
    if isinstance(given, dict):
        inside = Fields(given, where)
        if (kind := inside.needed("type", inside.text)) != "function":
            raise unsupported(f"{where}.type", f" as {shown(kind)}; function is")
        choice = _name(holder(inside))
        inside.end()
    elif given in (None, *WORDS):
        choice = given or "auto"
    else:
        raise invalid(where, f"is one of {', '.join(WORDS)} or a function, not {shown(given)}")
    return _calling(fields, tools, choice, fields.flag("parallel_tool_calls", True))


def _calling(
    fields: Fields, tools: Sequence[Tool], choice: Choice, parallel: bool
) -> Calling | None:
    threshold, where = fields.number("tool_threshold", 0, 1), fields.where("tool_choice")
    names = [tool.name for tool in tools]
    if not tools:
        if choice not in ("none", "auto"):
            raise invalid(where, "asks for a call, and there are no tools")
        return None
    if choice not in (*WORDS, *names):
        raise invalid(where, f"names {shown(choice)}; there are {', '.join(names)}")
    return Calling(tools, choice, parallel, threshold)


def _tools(
    fields: Fields,
    holder: Callable[[Fields], Fields],
    kind: str = "function",
    parameters: str = "parameters",
) -> list[Tool]:
    """parameters is what the API calls a tool's schema."""
    functions, definitions = [], []
    for one in fields.objects("tools") or []:
        given = one.text("type") or ("custom" if kind == "custom" else None)
        if given != kind:
            raise unsupported(one.where("type"), f" as {shown(given)}; {kind} is")
        functions.append(holder(one))
        definitions.append({"type": "function", "function": _function(functions[-1], parameters)})
        one.end()
    try:
        return check_tools(definitions) if definitions else []
    except WrongTool as error:
        where = functions[error.index].where(error.part.replace("parameters", parameters))
        raise Fault(422, f"{where}: {error}", where, "invalid_value") from None
    except UsageError as error:
        raise Fault(422, str(error), fields.where("tools"), "invalid_value") from None


def _function(fields: Fields, parameters: str) -> dict[str, Any]:
    """name, description and parameters, those that are there."""
    function = {
        "name": fields.needed("name", fields.text),
        "description": fields.text("description"),
        "parameters": fields.take(parameters),
    }
    fields.ignore(ASIDE)
    fields.end()
    return {name: value for name, value in function.items() if value is not None}


def _name(fields: Fields) -> str:
    name = fields.needed("name", fields.text)
    fields.end()
    if name in WORDS:
        raise unsupported(fields.where("name"), f" as {shown(name)}; ask for required")
    return name
