from .client import (
    BY_SERVER,
    Refused,
    adapters_field,
    answer_whole,
    ask_server,
    calling_field,
    has_loaded,
)
from .listen import own_socket
from .run import Options, serve
from .served import ServedModel, served_model

__all__ = [
    "BY_SERVER",
    "Options",
    "Refused",
    "ServedModel",
    "adapters_field",
    "answer_whole",
    "ask_server",
    "calling_field",
    "has_loaded",
    "own_socket",
    "serve",
    "served_model",
]
