from .client import LocalAnswer, ask_server
from .listen import own_socket
from .run import Options, serve

__all__ = ["LocalAnswer", "Options", "ask_server", "own_socket", "serve"]
