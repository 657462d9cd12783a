"""Work that threads do: handed over whole, and some of it ahead of what takes the results."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from convert.signals import deferred_signals

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")


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
