from .constraint import DEFAULT_THRESHOLD, Choice, ToolConstraint, tool_constraint
from .definitions import MOST_TOOLS, Tool, WrongTool, check_tools, read_tools
from .forms import PYTHON_TAG, Call, message_of
from .parts import CallPart, HeldCalls, parts_of
from .reader import Reader
from .results import NOTHING, OUTPUT_LIMIT, STOPPED, bounded

__all__ = [
    "DEFAULT_THRESHOLD",
    "MOST_TOOLS",
    "NOTHING",
    "OUTPUT_LIMIT",
    "PYTHON_TAG",
    "STOPPED",
    "Call",
    "CallPart",
    "Choice",
    "HeldCalls",
    "Reader",
    "Tool",
    "ToolConstraint",
    "WrongTool",
    "bounded",
    "check_tools",
    "message_of",
    "parts_of",
    "read_tools",
    "tool_constraint",
]
