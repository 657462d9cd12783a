"""What a call gave, as the text that a model reads."""

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llamacli.tools import NOTHING

if TYPE_CHECKING:
    from mcp_types import CallToolResult, ContentBlock


@dataclass(frozen=True)
class Outcome:
    """A call's result. failed tells that the tool, or reaching it, went wrong, stopped that the
    user ended it; text says so then."""

    text: str
    failed: bool = False
    stopped: bool = False


def outcome_of(result: "CallToolResult") -> Outcome:
    """The result's texts. What is no text is told, and left out."""
    text = "\n".join(map(_text_of, result.content))
    if not text.strip() and result.structured_content is not None:
        text = json.dumps(result.structured_content, ensure_ascii=False)
    if result.is_error:
        return Outcome(f"Error: {text.strip() or 'the tool failed and said nothing'}", failed=True)
    return Outcome(text if text.strip() else NOTHING)


def _text_of(block: "ContentBlock") -> str:
    if block.type == "text":
        return block.text
    if block.type == "resource_link":
        return f"[a link to {block.uri}]"
    if block.type == "resource":
        text = getattr(block.resource, "text", None)
        return text if isinstance(text, str) else f"[{block.resource.uri}, no text: left out]"
    return f"[{block.type}, {block.mime_type}: left out]"
