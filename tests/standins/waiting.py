"""Waiting for what must come: time decides no test, so what never ends has ten minutes."""

import time
from collections.abc import Callable
from typing import Protocol

PATIENCE = 600.0  # seconds after which a program is taken to hang, on the busiest machine
# Bytes of a pipe, where the system lets that be chosen: minutes of answers that nobody reads yet.
ROOM = 1 << 20


class Child(Protocol):
    def poll(self) -> int | None: ...


def wait_until(holds: Callable[[], bool], child: Child | None = None) -> None:
    """Return when something holds; a failure where it never does, or the child ended before."""
    end = time.monotonic() + PATIENCE
    while not holds():
        assert child is None or child.poll() is None, "the program ended before"
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)
