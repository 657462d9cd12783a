"""Conversations in JSON: a list of objects with role and content, checked."""

import json
from typing import Any

from llamacli.errors import UsageError

ROLES = ("system", "user", "assistant", "tool", "ipython")

Message = dict[str, str]


def read_messages(text: str, name: str) -> list[Message]:
    """The messages of a JSON text; name is where it came from, for errors.

    Raises UsageError that says which message is wrong, and how.
    """
    try:
        given = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{name} is not JSON: {error}") from None
    if not isinstance(given, list) or not given:
        raise UsageError(f"{name} is not a list of messages, [{{role, content}}, …]")
    for number, message in enumerate(given, 1):
        if wrong := problem(message):
            raise UsageError(f"{name}: message {number} {wrong}")
    return given


def problem(message: Any) -> str | None:
    """What is wrong with a message from a stranger, or None."""
    if not isinstance(message, dict):
        return "is not an object with role and content"
    for key in ("role", "content"):
        if key not in message:
            return f"has no {key}"
        if not isinstance(message[key], str):
            return f"has a {key} that is not a text"
    if unknown := sorted(message.keys() - {"role", "content"}):
        return f"has the unknown key {unknown[0]!r}; role and content are read"
    if message["role"] not in ROLES:
        return f"has the role {message['role']!r}, none of {', '.join(ROLES)}"
    return None
