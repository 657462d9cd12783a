"""Ctrl-C and its like, held back where they would do harm."""

import contextlib
import signal
import threading
from collections.abc import Iterator

INTERRUPTING = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


@contextlib.contextmanager
def deferred_signals(arrived: list[int]) -> Iterator[None]:
    """Signals during what mustn't be cut short, put into arrived, delivered when it ends.

    Where C calls back into Python, a handler that raises would be lost; in a thread pool's locks,
    which Python's own modules take, it would leave one held, and whoever ends the pool waiting.
    Handlers of Python's alone are held back; in other threads than the main one none ever runs.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held = {}
    for number in INTERRUPTING:
        if callable(signal.getsignal(number)):
            held[number] = signal.signal(number, lambda caught, _: arrived.append(caught))
    try:
        yield
    finally:
        for number, handler in reversed(held.items()):  # SIGINT last: it may raise now
            signal.signal(number, handler)
        for caught in sorted(arrived, key=lambda number: number == signal.SIGINT):
            signal.raise_signal(caught)  # one that ends the program isn't lost to one that may not
