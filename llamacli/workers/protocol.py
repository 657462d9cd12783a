"""The words of llama.cpp's RPC protocol (ggml-rpc.cpp), and reading and writing them on a socket.

A request is a byte for its command, the length of its body, and the body; an answer the same
without the byte. All numbers are little-endian.

llama.cpp takes answers at their word, and ends the process where there is none. So each is looked
at before it has it; and where none comes any more it is given made-up ones, for the rest of its
step, whose outcome is then thrown away.
"""

import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

VERSION = (7, 0, 0)  # RPC_PROTO_*_VERSION of the llama.cpp that llamacli names
MAX_DEVICES = 16  # of one model in all, as llama.cpp has it

HEAD = struct.Struct("<BQ")
SIZE = struct.Struct("<Q")
HELLO = struct.Struct("<3Bx24x")
U32, U64, PAIR = struct.Struct("<I"), struct.Struct("<Q"), struct.Struct("<QQ")
ALLOCATE = struct.Struct("<IQ")  # a device, bytes
# rpc_tensor: id, type, buffer, ne, nb, op, op_params, flags, src, view_src, view_offs, data, name,
# use_count
TENSOR = struct.Struct("<QIQ4I4II16ii10QQQQ64si")
TENSOR_NAME = slice(TENSOR.size - 68, TENSOR.size - 4)
I8 = 24  # ggml's number of the type

BASE = 1 << 32  # where a made-up buffer is said to begin; nobody looks there
HIGHEST = 1 << 62  # addresses and sizes that can be added up without an overflow
MOST_EXTRA = 1 << 40  # bytes that a tensor may take
MOST_MEMORY = 1 << 50  # bytes; who tells of more memory isn't to be trusted
WHOLE = 1 << 16  # bytes of a request's body that is read whole
ROOM = 1 << 20  # bytes of requests that are read at once


class Command(IntEnum):
    ALLOC_BUFFER = 0
    GET_ALIGNMENT = 1
    GET_MAX_SIZE = 2
    BUFFER_GET_BASE = 3
    FREE_BUFFER = 4
    BUFFER_CLEAR = 5
    SET_TENSOR = 6
    SET_TENSOR_HASH = 7
    GET_TENSOR = 8
    COPY_TENSOR = 9
    GRAPH_COMPUTE = 10
    GET_DEVICE_MEMORY = 11
    INIT_TENSOR = 12
    GET_ALLOC_SIZE = 13
    HELLO = 14
    DEVICE_COUNT = 15
    GRAPH_RECOMPUTE = 16
    MEMSET_TENSOR = 17


# The bytes of the answers whose length doesn't depend on the request; other commands but
# GET_TENSOR have none.
ANSWERS = {
    Command.ALLOC_BUFFER: 16,
    Command.GET_ALIGNMENT: 8,
    Command.GET_MAX_SIZE: 8,
    Command.BUFFER_GET_BASE: 8,
    Command.SET_TENSOR_HASH: 1,
    Command.COPY_TENSOR: 1,
    Command.GET_DEVICE_MEMORY: 16,
    Command.GET_ALLOC_SIZE: 8,
    Command.HELLO: HELLO.size,
    Command.DEVICE_COUNT: 4,
}


class Broken(OSError):
    """A connection that ended, took too long, or says what the protocol doesn't have."""


@dataclass(frozen=True)
class Lent:
    """A worker's device: bytes of memory, what it rounds buffers to, the largest buffer."""

    free: int
    total: int
    alignment: int
    max_size: int


class Part(NamedTuple):
    """Bytes of a tensor; tensor is an rpc_tensor as the client wrote it."""

    tensor: bytes
    offset: int
    nbytes: int

    @classmethod
    def of(cls, body: bytes | bytearray) -> "Part":
        """What a GET_TENSOR asks for."""
        if len(body) != TENSOR.size + PAIR.size:
            raise Broken("a GET_TENSOR of an odd length")
        return cls(bytes(body[: TENSOR.size]), *PAIR.unpack_from(body, TENSOR.size))

    def body(self) -> bytes:
        return self.tensor + PAIR.pack(self.offset, self.nbytes)


def tensor_name(body: bytes | memoryview) -> str:
    """The name in a body that begins with an rpc_tensor."""
    return bytes(body[TENSOR_NAME]).split(b"\0")[0].decode(errors="replace")


def send(sock: socket.socket, command: int, body: bytes = b"") -> None:
    """A request, in one piece. Raises OSError."""
    sock.sendall(HEAD.pack(command, len(body)) + body)


def receive(sock: socket.socket, size: int) -> bytes:
    """An answer of that many bytes. Raises OSError, Broken where it has another length."""
    head, answer = bytearray(SIZE.size), bytearray(size)
    fill(sock, memoryview(head))
    check_length(head, size)
    fill(sock, memoryview(answer))
    return bytes(answer)


def check_length(head: bytes | bytearray, size: int) -> None:
    """What stands in front of an answer of that many bytes. Raises Broken where it is another."""
    (told,) = SIZE.unpack(head)
    if told != size:
        speaks = "speaks HTTP" if head.startswith(b"HTTP/") else "says what no worker would"
        raise Broken(f"it {speaks}")


def fill(sock: socket.socket, view: memoryview) -> None:
    """Receive as many bytes as view has. Raises OSError, Broken where they end before."""
    while view:
        count = sock.recv_into(view)
        if not count:
            raise Broken("it closed the connection")
        view = view[count:]


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


def problem(
    command: Command, body: bytes, answer: bytes, buffers: dict[int, int], alignment: int
) -> str | None:
    """What no honest worker would answer, or None; buffers are the sizes of those it has."""
    match command:
        case Command.ALLOC_BUFFER:
            pointer, size = PAIR.unpack(answer)
            asked = ALLOCATE.unpack(body)[1] if len(body) == ALLOCATE.size else 0
            if pointer and not asked <= size <= HIGHEST:
                return f"it tells of a buffer of {size} bytes where {asked} were asked for"
            if pointer and pointer in buffers:
                return "it gives one buffer twice"
        case Command.BUFFER_GET_BASE:
            (base,) = U64.unpack(answer)
            size = buffers.get(U64.unpack(body)[0], 0)
            if not base or base % alignment or base + size > HIGHEST:
                return f"it tells of a buffer at {base}"
        case Command.GET_ALLOC_SIZE:
            if U64.unpack(answer)[0] > MOST_EXTRA:
                return "it tells of a tensor that is too large to be"
        case Command.GET_DEVICE_MEMORY:
            if max(PAIR.unpack(answer)) > MOST_MEMORY:
                return "it tells of a memory that can't be"
        case Command.SET_TENSOR_HASH | Command.COPY_TENSOR:
            if answer[0] > 1:
                return "it answers neither yes nor no"
    return None


def known(command: Command, body: bytes, devices: Sequence[Lent]) -> bytes | None:
    """What a worker has said when it was met, and need not be asked again; None for the rest."""
    match command:
        case Command.HELLO:
            return HELLO.pack(*VERSION)
        case Command.DEVICE_COUNT:
            return U32.pack(len(devices))
        case Command.GET_ALIGNMENT:
            return U64.pack(_device(body, devices).alignment)
        case Command.GET_MAX_SIZE:
            return U64.pack(_device(body, devices).max_size)
    return None


def _device(body: bytes, devices: Sequence[Lent]) -> Lent:
    number = int(U32.unpack(body)[0])
    if number >= len(devices):
        raise Broken(f"llama.cpp asks for device {number}")
    return devices[number]


def stand_in(command: Command, body: bytes) -> bytes:
    """An answer that lets llama.cpp go on: everything is there, and nothing need be sent."""
    match command:
        case Command.ALLOC_BUFFER:
            return PAIR.pack(BASE, ALLOCATE.unpack(body)[1])
        case Command.BUFFER_GET_BASE:
            return U64.pack(BASE)
        case Command.SET_TENSOR_HASH | Command.COPY_TENSOR:
            return b"\1"
    return bytes(ANSWERS[command])


def hashed_tensor(body: bytes) -> bytes:
    """The rpc_tensor of a SET_TENSOR_HASH, whose hash stands for all of its bytes."""
    if len(body) != TENSOR.size + PAIR.size or PAIR.unpack_from(body, TENSOR.size)[0]:
        raise Broken("a part of a tensor is asked for by its hash")
    return body[: TENSOR.size]
