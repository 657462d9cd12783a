from . import saved
from .file import SAMPLING, SessionHead
from .log import SessionLog
from .turns import ChatSession

__all__ = ["SAMPLING", "ChatSession", "SessionHead", "SessionLog", "saved"]
