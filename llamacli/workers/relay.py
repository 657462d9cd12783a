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
from llamacli.workers.greeting import FLAG, HEADER, MOST, SAMPLE, Hash, Weights
from llamacli.workers.link import Incoming, Link

CHUNK = 1 << 20
MOST_ASKED = 1 << 40  # bytes; who asks for more isn't llama.cpp


class Relay:
    """lost says why the worker is lost, None while it isn't.

    weights are those of the models that are computed there.
    """

    def __init__(self, link: Link, hashed: Hash | None = None) -> None:
        """hashed finds small tensors among what the worker has kept, None asks for none."""
        self.link = link
        self.lost: str | None = None
        self.weights: list[Weights] = []
        self._hashed = hashed
        self._alignment = min(device.alignment for device in link.devices)
        self._buffers: dict[int, int] = {}
        self._chunk = memoryview(bytearray(protocol.SIZE.size + CHUNK))
        self._ahead = bytearray()  # requests for the worker, not sent yet
        self._closed = False
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
                with suppress(OSError, LookupError, ValueError, StructError):
                    # until it goes, or says what llama.cpp wouldn't
                    self._serve(client)

    def _serve(self, client: socket.socket) -> None:
        """Pass on what llama.cpp asks for until it closes the connection, which raises OSError."""
        incoming = Incoming(client)
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
            if self._try(partial(self.link.fill, self._chunk[:1])):
                self._lose(protocol.Broken("it says what it wasn't asked for"))

    def _exchange(self, client: socket.socket, incoming: Incoming, number: int, size: int) -> None:
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
        whole = b"".join(incoming.take(protocol.HEAD.size + size))
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
            _, _, nbytes = protocol.parted(body)
            self._give_tensor(client, nbytes)
        elif command == protocol.Command.FREE_BUFFER:
            self._buffers.pop(protocol.U64.unpack(body)[0], None)

    def _pass_on(self, command: protocol.Command, incoming: Incoming, size: int) -> None:
        """A long request, piece by piece, to nobody where the worker is lost."""
        if command in protocol.ANSWERS:
            raise protocol.Broken("llama.cpp asks for too much")
        kept = command == protocol.Command.SET_TENSOR and size <= HEADER + MOST
        if kept and self._hashed is not None:
            self._give_weights(incoming, size, self._hashed)
            return
        for piece in incoming.take(protocol.HEAD.size + size):
            self._send(piece)

    def _give_weights(self, incoming: Incoming, size: int, hashed: Hash) -> None:
        """A SET_TENSOR that the worker need not be sent where it has kept the bytes."""
        whole = bytearray()
        for piece in incoming.take(protocol.HEAD.size + size):
            whole += piece
        body = memoryview(whole)[protocol.HEAD.size :]
        if any(one.has(protocol.tensor_name(body), size - HEADER) for one in self.weights):
            asked = protocol.part(bytes(body[:FLAG]), 0, hashed(body[HEADER:]))
            self._send(protocol.request(protocol.Command.SET_TENSOR_HASH, asked))
            if self._answer(protocol.Command.SET_TENSOR_HASH, asked)[0]:
                return
            body[FLAG] = 1
        self._send(whole)

    def _answer(self, command: protocol.Command, body: bytes) -> bytes:
        """The worker's, looked at, or what stands in for it."""
        if self.lost is None:
            try:
                return self._checked(command, body, self.link.receive(protocol.ANSWERS[command]))
            except OSError as error:
                self._lose(error)
        return protocol.stand_in(command, body)

    def _checked(self, command: protocol.Command, body: bytes, answer: bytes) -> bytes:
        protocol.check(command, body, answer, self._buffers, self._alignment)
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
        tensor, offset, _ = protocol.parted(body)
        name = protocol.tensor_name(tensor)
        held = (weights.samples(name) for weights in self.weights)
        return not offset and any(self._holds(tensor, samples) for samples in held)

    def _holds(self, tensor: bytes, samples: list[tuple[int, bytes]]) -> bool:
        """Whether the worker's tensor has these bytes at these offsets; False where none are."""
        for offset, _ in samples:
            asked = protocol.part(tensor, offset, SAMPLE)
            self.link.send(protocol.request(protocol.Command.GET_TENSOR, asked))
        found = [self.link.receive(SAMPLE) for _ in samples]
        return bool(samples) and found == [data for _, data in samples]

    def _give_tensor(self, client: socket.socket, size: int) -> None:
        """A tensor's bytes, zeros for those that don't come."""
        if size > MOST_ASKED:
            raise protocol.Broken("llama.cpp asks for too much")
        self._try(partial(self.link.begin, size))
        head = protocol.SIZE.pack(size)
        self._chunk[: len(head)] = head
        begun = len(head)
        while size or begun:
            piece = self._chunk[begun : begun + min(size, CHUNK)]
            if not self._try(partial(self.link.fill, piece)):
                piece[:] = bytes(len(piece))
            client.sendall(self._chunk[: begun + len(piece)])
            size -= len(piece)
            begun = 0

    def _send_ahead(self) -> None:
        if self._ahead:
            self._send(self._ahead)
            self._ahead = bytearray()

    def _send(self, data: bytes | bytearray | memoryview) -> None:
        self._try(partial(self.link.send, data))

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
