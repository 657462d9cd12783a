"""A conversation as a file for others: Markdown to be read, or OpenAI's messages in JSON."""

import json
import os
import re
import secrets
from collections.abc import Sequence
from pathlib import Path

from llamacli.chat.conversation import calls_of
from llamacli.chat.file import SessionHead
from llamacli.errors import UsageError, writing
from llamacli.prompt import RESULT_ROLES, Message, as_openai


def export_chat(path: Path, head: SessionHead, messages: Sequence[Message]) -> None:
    """Write a file that isn't there yet, whole or not: JSON where its name ends so, else Markdown.

    Raises UsageError or OutputError.
    """
    text = export_text(path, head, messages)
    with writing(path):
        if path.exists():
            raise UsageError(f"{path} is there already; name another file")
        part = path.with_name(f".{secrets.token_hex(8)}")
        try:
            part.write_text(text, encoding="utf-8", errors="replace")
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)


def export_text(path: Path, head: SessionHead, messages: Sequence[Message]) -> str:
    """What such a file has."""
    if path.suffix.lower() == ".json":
        return export_json(messages)
    return export_markdown(head, messages)


def export_json(messages: Sequence[Message]) -> str:
    """The messages as OpenAI's API has them, and --results reads them again."""
    return json.dumps(list(map(as_openai, messages)), ensure_ascii=False, indent=2) + "\n"


def export_markdown(head: SessionHead, messages: Sequence[Message]) -> str:
    """A heading for each message."""
    model = ", ".join(part for part in (head.model, head.quantization) if part)
    parts = [f"# A chat with {model or 'an unknown model'}"]
    for message in messages:
        text = (message["content"] or "").strip()
        if message["role"] in RESULT_ROLES:
            parts += [f"## Result of {message.get('name') or 'a tool'}", _fenced(text)]
            continue
        if text.count("```") % 2:  # an answer that was cut off in a block of code
            text += "\n```"
        parts += [f"## {message['role'].capitalize()}", *[text] * bool(text or message["content"])]
        for call in calls_of(message):
            arguments = json.dumps(call["function"]["arguments"], ensure_ascii=False, indent=2)
            parts += [f"Calls `{call['function']['name']}`:", _fenced(arguments, "json")]
    return "\n\n".join(parts) + "\n"


def _fenced(text: str, language: str = "") -> str:
    """A block of code that nothing in it ends."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"
