"""The words of llama.cpp's RPC protocol (ggml-rpc.cpp), and reading and writing them on a socket.

A request is a byte for its command, the length of its body, and the body; an answer the same
without the byte. All numbers are little-endian.
"""

import socket
import struct
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
