from .run import Options, serve

__all__ = ["Options", "serve"]
