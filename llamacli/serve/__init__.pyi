from .client import LocalAnswer, Refused, answer_whole, ask_server, has_loaded
from .listen import own_socket
from .run import Options, serve

__all__ = [
    "LocalAnswer",
    "Options",
    "Refused",
    "answer_whole",
    "ask_server",
    "has_loaded",
    "own_socket",
    "serve",
]
