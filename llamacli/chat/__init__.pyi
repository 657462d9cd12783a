from . import saved
from .export import export_chat, export_text
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
    "export_chat",
    "export_text",
    "final_answer",
    "perform_calls",
    "saved",
]
