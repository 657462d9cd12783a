from . import saved as saved
from .conversation import Conversation as Conversation
from .export import export_chat as export_chat, export_text as export_text
from .file import (
    SAMPLING as SAMPLING,
    Session as Session,
    SessionHead as SessionHead,
    SessionLog as SessionLog,
)
from .served import ChatEngine as ChatEngine, Served as Served
from .turns import (
    ChatSession as ChatSession,
    final_answer as final_answer,
    perform_calls as perform_calls,
)
