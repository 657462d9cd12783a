from . import saved
from .file import SAMPLING, SessionHead
from .log import SessionLog
from .loop import final_answer, perform_calls
from .served import ChatEngine, Served
from .turns import ChatSession

__all__ = [
    "SAMPLING",
    "ChatEngine",
    "ChatSession",
    "Served",
    "SessionHead",
    "SessionLog",
    "final_answer",
    "perform_calls",
    "saved",
]
