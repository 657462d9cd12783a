"""What a worker may answer llama.cpp, and what stands in for the answers of one that is lost.

llama.cpp takes answers at their word, and ends the process where there is none. So each is looked
at before it has it; and where none comes any more it is given made-up ones, for the rest of its
step, whose outcome is then thrown away.
"""

from collections.abc import Sequence

from llamacli.workers.greeting import MOST_MEMORY, Lent
from llamacli.workers.protocol import (
    ALLOCATE,
    ANSWERS,
    HELLO,
    PAIR,
    TENSOR,
    U32,
    U64,
    VERSION,
    Broken,
    Command,
)

BASE = 1 << 32  # where a made-up buffer is said to begin; nobody looks there
HIGHEST = 1 << 62  # addresses and sizes that can be added up without an overflow
MOST_EXTRA = 1 << 40  # bytes that a tensor may take


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
