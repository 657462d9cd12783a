from .client import LocalAnswer, ask_server
from .run import Options, serve

__all__ = ["LocalAnswer", "Options", "ask_server", "serve"]
