"""Between llama.cpp and a worker: every byte passes here, so that a worker's death is ours to tell.

llama.cpp ends the process where a worker dies, stalls or answers nonsense. It is connected to this
relay, on the loopback, which passes on what both say. What a worker answers is looked at first;
once it is lost, llama.cpp gets answers of the right form, so that its call returns. Whoever called
it looks at `lost` then, and throws away what the call came to.
"""

import selectors
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from struct import error as StructError  # noqa: N812

from llamacli.errors import reason
from llamacli.workers import protocol
from llamacli.workers.greeting import FLAG, HEADER, MOST, SAMPLE, Hash, Link, Weights

CHUNK = 1 << 20
SLICE = 0.5  # seconds, after which it is asked whether anybody still waits
MOST_ASKED = 1 << 40  # bytes; who asks for more isn't llama.cpp


class Relay:
    """lost says why the worker is lost, None while it isn't. sent and received count bytes.

    weights are those of the models that are computed there.
    """

    def __init__(
        self,
        link: Link,
        timeout: float,
        hashed: Hash | None = None,
        given_up: Callable[[], bool] = lambda: False,
    ) -> None:
        """timeout is in seconds; given_up is asked now and then while the worker is waited for.

        hashed finds small tensors among what the worker has kept, None asks for none.
        """
        self.link = link
        self.lost: str | None = None
        self._timeout, self._given_up = timeout, given_up
        self.sent = self.received = 0
        self.weights: list[Weights] = []
        self._hashed = hashed
        self._alignment = min(device.alignment for device in link.devices)
        self._buffers: dict[int, int] = {}
        self._chunk = memoryview(bytearray(CHUNK))
        self._ahead = bytearray()  # requests for the worker, not sent yet
        self._closed = False
        link.sock.settimeout(min(SLICE, timeout))
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        # llama.cpp remembers devices by this text, and reads the port up to the first odd letter:
        # no two relays may have the same.
        self.endpoint = f"127.0.0.1:{port}#{time.monotonic_ns()}"
        threading.Thread(target=self._run, name=f"relay {link.address}", daemon=True).start()

    def close(self) -> None:
        """End the connection; to be called when llama.cpp has freed what it had there."""
        self._closed = True
        with suppress(OSError), socket.create_connection(self._listener.getsockname(), 1.0):
            pass  # wakes it
        self._listener.close()
        self.link.close()

    def _run(self) -> None:
        """llama.cpp connects several times, one after the other."""
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                if self._closed:
                    return
                time.sleep(0.05)  # too many open files, say
                continue
            with client:
                if self._closed:
                    return
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with suppress(OSError, ValueError, StructError):  # it went, or isn't llama.cpp
                    self._serve(client)

    def _serve(self, client: socket.socket) -> None:
        """Pass on what llama.cpp asks for until it closes the connection, which raises OSError."""
        incoming = protocol.Incoming(client)
        self._ahead = bytearray()
        selector = selectors.DefaultSelector()
        selector.register(client, selectors.EVENT_READ)
        if self.lost is None:
            selector.register(self.link.sock, selectors.EVENT_READ)
        with selector:
            while True:
                while (head := incoming.head()) is None:
                    self._send_ahead()
                    if not incoming.held:
                        self._wait(selector, client)
                    incoming.receive()
                self._exchange(client, incoming, *head)

    def _wait(self, selector: selectors.BaseSelector, client: socket.socket) -> None:
        """Until llama.cpp asks for something; a worker that goes meanwhile is lost at once."""
        while self.lost is None:
            if any(key.fileobj is client for key, _ in selector.select()):
                return
            if self._try(lambda: protocol.fill(self.link.sock, memoryview(bytearray(1)))):
                self._lose(protocol.Broken("it says what it wasn't asked for"))

    def _exchange(
        self, client: socket.socket, incoming: protocol.Incoming, number: int, size: int
    ) -> None:
        """A request, to the worker, and its answer to llama.cpp. Those without one are sent with
        what comes next, as far as that is here already."""
        try:
            command = protocol.Command(number)
        except ValueError:
            raise protocol.Broken("llama.cpp asks for what isn't known") from None
        if size > protocol.WHOLE:
            self._send_ahead()
            self._pass_on(command, incoming, size)
            return
        whole = bytes(incoming.take(protocol.HEAD.size + size))
        body = whole[protocol.HEAD.size :]
        if (answer := protocol.known(command, body, self.link.devices)) is None:
            self._ahead += whole
            if command in protocol.ANSWERS:
                self._send_ahead()
                answer = self._answer(command, body)
        if answer is not None:
            client.sendall(protocol.SIZE.pack(len(answer)) + answer)
        elif command == protocol.Command.GET_TENSOR:
            self._send_ahead()
            self._give_tensor(client, protocol.Part.of(body).nbytes)
        elif command == protocol.Command.FREE_BUFFER:
            self._buffers.pop(protocol.U64.unpack(body)[0], None)

    def _pass_on(self, command: protocol.Command, incoming: protocol.Incoming, size: int) -> None:
        """A long request, piece by piece, to nobody where the worker is lost."""
        if command in protocol.ANSWERS:
            raise protocol.Broken("llama.cpp asks for too much")
        if (
            self._hashed is not None
            and command == protocol.Command.SET_TENSOR
            and size <= HEADER + MOST
        ):
            self._give_weights(incoming, size, self._hashed)
            return
        size += protocol.HEAD.size
        while size:
            part = incoming.take(size)
            size -= len(part)
            self._send(part)

    def _give_weights(self, incoming: protocol.Incoming, size: int, hashed: Hash) -> None:
        """A SET_TENSOR that the worker need not be sent where it has kept the bytes."""
        whole, at = bytearray(protocol.HEAD.size + size), 0
        while at < len(whole):
            part = incoming.take(len(whole) - at)
            whole[at : at + len(part)] = part
            at += len(part)
        body = memoryview(whole)[protocol.HEAD.size :]
        if any(one.has(protocol.tensor_name(body), size - HEADER) for one in self.weights):
            asked = bytes(body[: protocol.TENSOR.size]) + protocol.PAIR.pack(
                0, hashed(body[HEADER:])
            )
            self._send(protocol.HEAD.pack(protocol.Command.SET_TENSOR_HASH, len(asked)) + asked)
            if self._answer(protocol.Command.SET_TENSOR_HASH, asked)[0]:
                return
            body[FLAG] = 1
        self._send(whole)

    def _answer(self, command: protocol.Command, body: bytes) -> bytes:
        """The worker's, looked at, or what stands in for it."""
        if self.lost is None:
            try:
                return self._checked(command, body, self._receive(protocol.ANSWERS[command]))
            except OSError as error:
                self._lose(error)
        return protocol.stand_in(command, body)

    def _checked(self, command: protocol.Command, body: bytes, answer: bytes) -> bytes:
        wrong = protocol.problem(command, body, answer, self._buffers, self._alignment)
        if wrong is not None:
            raise protocol.Broken(wrong)
        if command == protocol.Command.ALLOC_BUFFER:
            pointer, size = protocol.PAIR.unpack(answer)
            self._buffers[pointer] = size
        if command == protocol.Command.SET_TENSOR_HASH and answer[0]:
            return bytes([self._is_whole(body)])
        return answer

    def _is_whole(self, body: bytes) -> bool:
        """Whether a tensor that the worker had in its cache is the file's, by samples of it.

        A cache's file may have been cut short by a full disk or a killed worker.
        """
        name, tensor = protocol.tensor_name(body), protocol.hashed_tensor(body)
        return any(self._holds(tensor, weights.samples(name)) for weights in self.weights)

    def _holds(self, tensor: bytes, samples: list[tuple[int, bytes]]) -> bool:
        """Whether the worker's tensor has these bytes at these offsets; False where none are."""
        for offset, _ in samples:
            asked = protocol.Part(tensor, offset, SAMPLE).body()
            self._send(protocol.HEAD.pack(protocol.Command.GET_TENSOR, len(asked)) + asked)
        if self.lost is not None:
            return False
        found = [self._receive(SAMPLE) for _ in samples]
        return bool(samples) and found == [data for _, data in samples]

    def _give_tensor(self, client: socket.socket, size: int) -> None:
        """A tensor's bytes, zeros for those that don't come."""
        if size > MOST_ASKED:
            raise protocol.Broken("llama.cpp asks for too much")
        head, left = protocol.SIZE.pack(size), protocol.SIZE.size + size
        while left:
            part = self._chunk[: min(left, CHUNK)]
            if not self._try(partial(self._fill, part, size if head else None)):
                part[:] = head + bytes(len(part) - len(head))
            self.received += len(part)
            client.sendall(part)
            left -= len(part)
            head = b""

    def _send_ahead(self) -> None:
        if self._ahead:
            self._send(self._ahead)
            self._ahead = bytearray()

    def _send(self, data: bytes | bytearray | memoryview) -> None:
        if self._try(partial(self._push, memoryview(data))):
            self.sent += len(data)

    def _receive(self, size: int) -> bytes:
        answer = bytearray(protocol.SIZE.size + size)
        self._fill(memoryview(answer), size)
        self.received += len(answer)
        return bytes(answer[protocol.SIZE.size :])

    def _fill(self, view: memoryview, size: int | None = None) -> None:
        """As fill, of the worker, waited for as long as it may take; size is that of the answer
        that begins here, which its first bytes must tell."""
        got = 0
        while got < len(view):
            count = self._patiently(partial(self.link.sock.recv_into, view[got:]))
            if not count:
                raise protocol.Broken("it closed the connection")
            if size is not None and got < protocol.SIZE.size <= got + count:
                protocol.check_length(bytes(view[: protocol.SIZE.size]), size)
            got += count

    def _push(self, view: memoryview) -> None:
        while view:
            view = view[self._patiently(partial(self.link.sock.send, view)) :]

    def _patiently(self, work: Callable[[], int]) -> int:
        """Try again until the worker's time is over, or nobody waits for it any more."""
        end = time.monotonic() + self._timeout
        while True:
            try:
                return work()
            except TimeoutError:
                if time.monotonic() >= end:
                    told = f"it has not answered for {self._timeout:g} seconds"
                    raise protocol.Broken(told) from None
                if self._given_up():
                    raise protocol.Broken("it wasn't waited for any longer") from None

    def _try(self, work: Callable[[], None]) -> bool:
        """Whether it could be done; False for good once the worker is lost."""
        if self.lost is None:
            try:
                work()
            except OSError as error:
                self._lose(error)
        return self.lost is None

    def _lose(self, error: OSError) -> None:
        self.lost = reason(error)
        self.link.close()
