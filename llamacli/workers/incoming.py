"""What llama.cpp sends a relay, request by request: as much at once as there is.

llama.cpp sends each request in three pieces, and several of them before it waits for an answer.
"""

import socket

from llamacli.workers.protocol import HEAD, Broken

WHOLE = 1 << 16  # bytes of a body that is read whole
ROOM = 1 << 20


class Incoming:
    """What has come and wasn't taken yet. Raises OSError where the connection ends."""

    def __init__(self, client: socket.socket) -> None:
        self._client = client
        self._buffer = memoryview(bytearray(ROOM))
        self._start = self._end = 0

    @property
    def held(self) -> int:
        return self._end - self._start

    def head(self) -> tuple[int, int] | None:
        """The next request's command and its body's bytes, once it is there up to WHOLE bytes."""
        if self.held < HEAD.size:
            return None
        command, size = HEAD.unpack_from(self._buffer, self._start)
        return (command, size) if size > WHOLE or self.held >= HEAD.size + size else None

    def receive(self) -> None:
        """Wait for more."""
        if self._start:
            rest = bytes(self._buffer[self._start : self._end])
            self._buffer[: len(rest)] = rest
            self._start, self._end = 0, len(rest)
        count = self._client.recv_into(self._buffer[self._end :])
        if not count:
            raise Broken("llama.cpp closed the connection")
        self._end += count

    def take(self, most: int) -> memoryview:
        """At most so many bytes, at least one; what it gives is good until the next call."""
        if not self.held:
            self.receive()
        start = self._start
        self._start = min(start + most, self._end)
        return self._buffer[start : self._start]
