"""Ctrl-C and its like, held back where they would do harm."""

import contextlib
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")

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
        for number, handler in held.items():
            signal.signal(number, handler)
        for caught in arrived:
            signal.raise_signal(caught)


class Pool(ThreadPoolExecutor):
    """Threads to which a piece of work is handed whole, or not at all, whatever signal comes."""

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        with deferred_signals([]):
            return super().submit(fn, *args, **kwargs)


def some_ahead(
    submit: Callable[[T], Future[R]], items: Iterable[T], most: int
) -> Iterator[tuple[T, R]]:
    """Each item with its result, in order, while up to so many are worked on."""
    waiting: deque[tuple[T, Future[R]]] = deque()
    for item in items:
        if len(waiting) >= most:
            first, future = waiting.popleft()
            yield first, future.result()
        waiting.append((item, submit(item)))
    for item, future in waiting:
        yield item, future.result()
