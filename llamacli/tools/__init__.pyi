from .constraint import (
    DEFAULT_THRESHOLD as DEFAULT_THRESHOLD,
    Choice as Choice,
    ToolConstraint as ToolConstraint,
    tool_constraint as tool_constraint,
)
from .definitions import (
    MOST_TOOLS as MOST_TOOLS,
    NOTHING as NOTHING,
    OUTPUT_LIMIT as OUTPUT_LIMIT,
    STOPPED as STOPPED,
    Tool as Tool,
    WrongTool as WrongTool,
    bounded as bounded,
    check_tools as check_tools,
    read_tools as read_tools,
)
from .forms import CALL_MARKERS as CALL_MARKERS, Call as Call, message_of as message_of
from .reader import (
    CallPart as CallPart,
    HeldCalls as HeldCalls,
    Reader as Reader,
    parts_of as parts_of,
)
