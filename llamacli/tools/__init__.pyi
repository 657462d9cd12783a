from .constraint import DEFAULT_THRESHOLD, Choice, ToolConstraint, tool_constraint
from .definitions import Tool, check_tools, chosen_tools, read_tools
from .forms import Call, message_of
from .reader import Reader, read_answer

__all__ = [
    "DEFAULT_THRESHOLD",
    "Call",
    "Choice",
    "Reader",
    "Tool",
    "ToolConstraint",
    "check_tools",
    "chosen_tools",
    "message_of",
    "read_answer",
    "read_tools",
    "tool_constraint",
]
