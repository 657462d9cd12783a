"""What tools gave, bounded before a model reads it."""

from collections.abc import Sequence

from llamacli.errors import UsageError
from llamacli.prompt import RESULT_ROLES, Message

OUTPUT_LIMIT = 32_768  # characters of a tool's result that are read without --tool-output-limit
NOTHING = "(the tool gave nothing)"
STOPPED = "Error: the user stopped this call."


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
