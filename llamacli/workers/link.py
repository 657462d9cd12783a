"""The two sockets of the protocol: a worker's, waited for with patience, and llama.cpp's."""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from llamacli.workers import protocol
from llamacli.workers.addresses import Address

SLICE = 0.5  # seconds, after which it is asked whether anybody still waits
# A machine that lost its power says nothing: its link is tried after so many seconds of silence,
# so often, so many times.
KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPALIVE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}
LOST_AFTER = 30_000  # milliseconds without a word that what was sent has come
ROOM = 1 << 20  # bytes of requests that are read at once


@dataclass
class Link:
    """A connection to a worker. Its methods raise OSError, TimeoutError where no byte has gone or
    come for so many seconds as patience has.

    given_up is asked now and then meanwhile. devices are what the worker lends, once it has said
    so; sent counts bytes.
    """

    address: Address
    sock: socket.socket
    patience: float
    given_up: Callable[[], bool] = lambda: False
    devices: tuple[protocol.Lent, ...] = ()
    sent: int = 0

    @classmethod
    def to(cls, address: Address, patience: float) -> "Link":
        link = cls(address, socket.create_connection(address, patience), patience)
        try:
            link._prepare()
        except OSError:  # macOS refuses options of a connection that is closed already
            link.close()
            raise
        return link

    def _prepare(self) -> None:
        self.sock.settimeout(SLICE)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in {**KEEPALIVE, "TCP_USER_TIMEOUT": LOST_AFTER}.items():
            if hasattr(socket, name):
                self.sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def close(self) -> None:
        with suppress(OSError):
            self.sock.close()

    def ask(self, command: protocol.Command, body: bytes = b"", size: int | None = None) -> bytes:
        """An answer of the length that the protocol has for it."""
        self.send(protocol.request(command, body))
        return self.receive(protocol.ANSWERS[command] if size is None else size)

    def send(self, data: bytes | bytearray | memoryview) -> None:
        view = memoryview(data)
        self.sent += len(view)
        while view:
            view = view[self._patiently(partial(self.sock.send, view)) :]

    def receive(self, size: int) -> bytes:
        """An answer of that many bytes."""
        self.begin(size)
        answer = bytearray(size)
        self.fill(memoryview(answer))
        return bytes(answer)

    def begin(self, size: int) -> None:
        """Its length, which an answer begins with. Raises Broken where that is another."""
        head = bytearray(protocol.SIZE.size)
        self.fill(memoryview(head))
        if protocol.SIZE.unpack(head) != (size,):
            speaks = "speaks HTTP" if head.startswith(b"HTTP/") else "says what no worker would"
            raise protocol.Broken(f"it {speaks}")

    def fill(self, view: memoryview) -> None:
        """Receive as many bytes as view has. Raises Broken where they end before."""
        while view:
            count = self._patiently(partial(self.sock.recv_into, view))
            if not count:
                raise protocol.Broken("it closed the connection")
            view = view[count:]

    def _patiently(self, work: Callable[[], int]) -> int:
        """Try again until the worker's time is over, or nobody waits for it any more."""
        end = time.monotonic() + self.patience
        while True:
            try:
                return work()
            except TimeoutError:
                if time.monotonic() >= end:
                    told = f"it has not answered for {self.patience:g} seconds"
                    raise TimeoutError(told) from None
                if self.given_up():
                    raise protocol.Broken("it wasn't waited for any longer") from None


class Incoming:
    """What llama.cpp has sent and wasn't taken yet, read as much at once as there is: it sends each
    request in three pieces, and several of them before it waits for an answer.

    Raises OSError where the connection ends.
    """

    def __init__(self, client: socket.socket) -> None:
        self._client = client
        self._buffer = memoryview(bytearray(ROOM))
        self._start = self._end = 0

    @property
    def held(self) -> int:
        return self._end - self._start

    def head(self) -> tuple[int, int] | None:
        """The next request's command and its body's bytes, once it is there up to WHOLE bytes."""
        if self.held < protocol.HEAD.size:
            return None
        command, size = protocol.HEAD.unpack_from(self._buffer, self._start)
        whole = self.held >= protocol.HEAD.size + size
        return (command, size) if whole or size > protocol.WHOLE else None

    def receive(self) -> None:
        """Wait for more."""
        if self._start:
            rest = bytes(self._buffer[self._start : self._end])
            self._buffer[: len(rest)] = rest
            self._start, self._end = 0, len(rest)
        count = self._client.recv_into(self._buffer[self._end :])
        if not count:
            raise protocol.Broken("llama.cpp closed the connection")
        self._end += count

    def take(self, size: int) -> Iterator[memoryview]:
        """So many bytes as they come; each piece is good until the next."""
        while size:
            if not self.held:
                self.receive()
            start = self._start
            self._start = min(start + size, self._end)
            size -= self._start - start
            yield self._buffer[start : self._start]
