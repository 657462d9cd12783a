from .start import Wanted, start_repl

__all__ = ["Wanted", "start_repl"]
