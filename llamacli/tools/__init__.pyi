from .constraint import DEFAULT_THRESHOLD, Choice, ToolConstraint, tool_constraint
from .definitions import MOST_TOOLS, Tool, WrongTool, check_tools, chosen_tools, read_tools
from .forms import PYTHON_TAG, Call, message_of
from .reader import Reader, read_answer
from .results import OUTPUT_LIMIT, bounded

__all__ = [
    "DEFAULT_THRESHOLD",
    "MOST_TOOLS",
    "OUTPUT_LIMIT",
    "PYTHON_TAG",
    "Call",
    "Choice",
    "Reader",
    "Tool",
    "ToolConstraint",
    "WrongTool",
    "bounded",
    "check_tools",
    "chosen_tools",
    "message_of",
    "read_answer",
    "read_tools",
    "tool_constraint",
]
