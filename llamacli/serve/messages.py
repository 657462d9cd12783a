"""Conversations as OpenAI's chat completions have them, read into what templates take."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from llamacli.prompt import RESULT_ROLES, Message, arguments_of
from llamacli.serve.ask import refuse
from llamacli.serve.faults import invalid
from llamacli.serve.fields import Fields, objects, shown

ROLES = ("system", "developer", "user", "assistant", *RESULT_ROLES)


def read_messages(fields: Fields) -> list[Message]:
    """Roles, texts, calls and results; parts of text are joined. Raises Fault for anything else."""
    return list(map(_message, given_messages(fields)))


def given_messages(fields: Fields) -> list[Fields]:
    """Those that the field messages has, at least one. Raises Fault."""
    if not (given := fields.needed("messages", fields.objects)):
        raise invalid("messages", "is empty")
    return given


def _message(fields: Fields) -> Message:
    role = fields.needed("role", partial(fields.one_of, words=ROLES))
    refuse(fields, {"function_call": "; give tool_calls", "audio": ""})
    fields.ignore(["refusal", "annotations", "reasoning_content"])
    calls = fields.objects("tool_calls")
    if calls and role != "assistant":
        raise invalid(fields.where("tool_calls"), f"stands in a message of the role {role}")
    message: Message = {"role": "system" if role == "developer" else role}
    none = bool(calls) and "content" not in fields.values
    message["content"] = None if none else content_text(fields, "content")
    for name in ("name", "tool_call_id"):
        if (text := fields.text(name)) is not None:
            message[name] = text
    if calls:
        message["tool_calls"] = list(map(_call, calls))
    fields.end()
    return message


def _call(fields: Fields) -> dict[str, Any]:
    fields.needed("type", partial(fields.one_of, words=("function",)))
    name, function = fields.text("id"), fields.needed("function", fields.inside)
    fields.ignore(["index"])  # as a stream has it
    fields.end()
    call = function_call(function, name)
    function.end()
    return call


def function_call(fields: Fields, identity: str | None, arguments: str = "arguments") -> Message:
    """A call as templates read it, of an object with name and arguments."""
    name, given = fields.needed("name", fields.text), fields.take(arguments)
    if (read := arguments_of({} if given is None else given)) is None:
        raise invalid(fields.where(arguments), f"is no JSON object, but {shown(given)}")
    call = {"type": "function", "function": {"name": name, "arguments": read}}
    return call if identity is None else {"id": identity, **call}


def content_text(fields: Fields, name: str, kinds: Sequence[str] = ("text",)) -> str:
    """A text, or a list of parts of those kinds, joined. Raises Fault."""
    value, where = fields.take(name), fields.where(name)
    if isinstance(value, str):
        return value
    if value is None:
        raise invalid(where, "is missing")
    if not isinstance(value, list):
        raise invalid(where, f"is a text or a list of parts, not {shown(value)}")
    return "".join(part_text(part, kinds) for part in objects(value, where))


def part_text(part: Fields, kinds: Sequence[str] = ("text",)) -> str:
    """The text of a part of one of those kinds."""
    kind = part.needed("type", part.text)
    if kind not in kinds:
        raise invalid(part.where("type"), f"is {shown(kind)}; the model reads text alone")
    return part.needed("text", part.text)
