"""The words of llama.cpp's RPC protocol (ggml-rpc.cpp).

A request is a byte for its command, the length of its body, and the body; an answer the same
without the byte. All numbers are little-endian.

llama.cpp takes answers at their word, and ends the process where there is none. So each is looked
at before it has it; and where none comes any more it is given made-up ones, for the rest of its
step, whose outcome is then thrown away.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

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


def tensor_name(body: bytes | memoryview) -> str:
    """The name in a body that begins with an rpc_tensor."""
    return bytes(body[TENSOR_NAME]).split(b"\0")[0].decode(errors="replace")


def request(command: int, body: bytes = b"") -> bytes:
    return HEAD.pack(command, len(body)) + body


def part(tensor: bytes, offset: int, number: int) -> bytes:
    """An rpc_tensor with a place in it, and how many bytes are asked for, or their hash."""
    return tensor + PAIR.pack(offset, number)


def parted(body: bytes) -> tuple[bytes, int, int]:
    """What part has put together. Raises Broken."""
    if len(body) != TENSOR.size + PAIR.size:
        raise Broken("llama.cpp asks for a tensor in an odd length")
    return body[: TENSOR.size], *PAIR.unpack_from(body, TENSOR.size)


def check(
    command: Command, body: bytes, answer: bytes, buffers: dict[int, int], alignment: int
) -> None:
    """Raises Broken for what no honest worker would answer; buffers are the sizes of those it
    has."""
    match command:
        case Command.ALLOC_BUFFER:
            pointer, size = PAIR.unpack(answer)
            (_, asked) = ALLOCATE.unpack(body)
            if pointer and not asked <= size <= HIGHEST:
                raise Broken(f"it tells of a buffer of {size} bytes where {asked} were asked for")
            if pointer and pointer in buffers:
                raise Broken("it gives one buffer twice")
        case Command.BUFFER_GET_BASE:
            (base,) = U64.unpack(answer)
            size = buffers.get(U64.unpack(body)[0], 0)
            if not base or base % alignment or base + size > HIGHEST:
                raise Broken(f"it tells of a buffer at {base}")
        case Command.GET_ALLOC_SIZE:
            if U64.unpack(answer)[0] > MOST_EXTRA:
                raise Broken("it tells of a tensor that is too large to be")
        case Command.GET_DEVICE_MEMORY:
            if max(PAIR.unpack(answer)) > MOST_MEMORY:
                raise Broken("it tells of a memory that can't be")
        case Command.SET_TENSOR_HASH | Command.COPY_TENSOR:
            if answer[0] > 1:
                raise Broken("it answers neither yes nor no")


def known(command: Command, body: bytes, devices: Sequence[Lent]) -> bytes | None:
    """What a worker has said when it was met, and need not be asked again; None for the rest."""
    match command:
        case Command.HELLO:
            return HELLO.pack(*VERSION)
        case Command.DEVICE_COUNT:
            return U32.pack(len(devices))
        case Command.GET_ALIGNMENT | Command.GET_MAX_SIZE:
            (number,) = U32.unpack(body)
            one = devices[number]
            return U64.pack(one.alignment if command == Command.GET_ALIGNMENT else one.max_size)
    return None


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
