"""Signals while a call into C waits for a worker: Python's handlers run only when it is back."""

import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from llamacli.system import ENDING


class Signals:
    """given_up says whether to wait no longer: after one that ends the program, or Ctrl-C twice."""

    def __init__(self) -> None:
        self._noted = bytearray()
        self._stopped = False
        self._reading, self._writing = socket.socketpair()
        self._reading.setblocking(False)
        self._writing.setblocking(False)

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Note signals during the block; in other threads than the main one none is seen."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self._read()
        self._noted.clear()
        before = signal.set_wakeup_fd(self._writing.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)

    def stop(self) -> None:
        self._stopped = True

    def given_up(self) -> bool:
        """To be asked by another thread."""
        self._read()
        ending = any(number in ENDING for number in self._noted)
        return self._stopped or ending or self._noted.count(signal.SIGINT) > 1

    def close(self) -> None:
        self._reading.close()
        self._writing.close()

    def _read(self) -> None:
        with suppress(OSError):  # none came, or it is closed
            self._noted += self._reading.recv(64)
