"""SIGINT, SIGTERM, SIGHUP during an answer: it ends, what was said stays, the exit code tells."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from llamacli.system import ENDING, alarm

PATIENCE = 0.1  # seconds that a write may go on after a signal; a reader that stalls is left then


@dataclass
class Interrupts:
    """arrived holds the numbers of the signals that have come."""

    arrived: list[int] = field(default_factory=list)
    writes: int = 0
    writing: bool = False

    def __bool__(self) -> bool:
        return bool(self.arrived)

    def around(self, write: Callable[[str], None]) -> Callable[[str], None]:
        """The same write, left by an exception where it blocks after a signal."""

        def watched(text: str) -> None:
            self.writes, self.writing = self.writes + 1, True
            try:
                write(text)
            finally:
                self.writing = False

        return watched


@contextlib.contextmanager
def interrupts() -> Iterator[Interrupts]:
    """Signals are noted, not raised, until the block ends, where the first is delivered.

    The second one is delivered at once. Signals that the caller's parent has us ignore stay
    ignored; in other threads than the main one nothing changes.
    """
    state = Interrupts()
    held: dict[int, Any] = {}
    begun: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield state
        return

    def arrive(number: int, frame: FrameType | None) -> None:
        state.arrived.append(number)
        if len(state.arrived) > 1:
            held[number](number, frame)
        elif state.writing:
            begun.append(state.writes)
            start(PATIENCE)

    def give_up() -> None:
        if state.writing and state.writes == begun[-1]:
            number = state.arrived[-1]
            held[number](number, None)

    failed: Exception | None = None
    with alarm(give_up) as start:
        for caught in (signal.SIGINT, *ENDING):
            if callable(signal.getsignal(caught)):
                held[caught] = signal.signal(caught, arrive)
        try:
            yield state
        except Exception as error:  # a terminal that went, say: the signal tells it better
            failed = error
        finally:
            for number, handler in held.items():
                signal.signal(number, handler)
    if state.arrived:
        signal.raise_signal(state.arrived[0])
    if failed is not None:
        raise failed
