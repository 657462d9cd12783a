"""Meeting a worker before llama.cpp does, with time limits: its version, its devices, its link, and
weights that it has kept on its disk, asked for by llama.cpp's hash of their bytes.

llama.cpp itself asks so for tensors of more than 10 MiB. The smaller ones, which are all of a small
model's, are asked for by the relay, where numba is installed: without it the hash takes longer than
sending them.
"""

import importlib.util
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from time import perf_counter
from typing import Any

from llamacli.errors import UnreachableError, reason
from llamacli.gguf import GGUFFile
from llamacli.workers import protocol
from llamacli.workers.addresses import Address
from llamacli.workers.link import Link

PATIENCE = 10.0  # seconds to connect, and for each answer of a worker that computes nothing
HTTP_PATIENCE = 2.0
PROBE = 8 << 20  # bytes that are sent to measure a link
ROUNDS = 9

START, PRIME = 0xCBF29CE484222325, 0x100000001B3  # FNV-1a's, of 64 bits
FLAG = protocol.TENSOR.size  # where a SET_TENSOR says whether to keep its bytes
HEADER = FLAG + 1 + protocol.U64.size  # what stands before them
MOST = 10 << 20  # bytes, beyond which llama.cpp asks by itself
WORTH = 64 << 20  # bytes of a file's smaller tensors; fewer are sent sooner than numba is ready
SAMPLE = 256  # bytes that are compared, at three places of a tensor
KEPT = 256  # bytes that a worker is given to see whether it keeps any

Hash = Callable[[memoryview], int]


def greet(address: Address, patience: float = PATIENCE) -> Link:
    """Connect, compare versions, and ask for the devices.

    Raises UnreachableError, which says whether nothing is there, no worker, a busy one, or one
    of another version.
    """
    try:
        link = Link.to(address, patience)
    except UnicodeError as error:  # no name that the network has
        raise UnreachableError(f"{address.host!r} is no host's name") from error
    except OSError as error:
        why = "no answer" if isinstance(error, TimeoutError) else reason(error)
        raise UnreachableError(
            f"the worker {address} can't be reached: {why}",
            hint="start `llamacli worker` there",
        ) from error
    try:
        _compare(link)
        link.devices = _devices(link)
    except BaseException as error:
        link.close()
        if isinstance(error, TimeoutError) and not _speaks_http(address):
            told = f"the worker {address} doesn't answer"
            raise UnreachableError(told, hint="it may be serving another") from error
        if isinstance(error, OSError):
            why = "it speaks HTTP" if isinstance(error, TimeoutError) else reason(error)
            raise UnreachableError(f"{address} is no worker: {why}") from error
        raise
    return link


def measure(link: Link) -> tuple[float, float]:
    """A round trip's seconds, and bytes a second, 0 where there is no room to measure it.

    Raises UnreachableError.
    """
    times = []
    with told_of(link):
        for _ in range(ROUNDS):
            begun = perf_counter()
            link.ask(protocol.Command.DEVICE_COUNT)
            times.append(perf_counter() - begun)
        latency = sorted(times)[ROUNDS // 2]
        with tensor_on(link, PROBE) as tensor:
            if tensor is None:
                return latency, 0.0
            begun = perf_counter()
            _set(link, tensor, bytes(PROBE))
            link.ask(protocol.Command.GET_TENSOR, protocol.part(tensor, 0, 1), 1)
            taken = max(perf_counter() - begun - latency, 1e-9)
    return latency, PROBE / taken


@contextmanager
def told_of(link: Link) -> Iterator[None]:
    """What goes wrong with a link is told as that of a worker that is lost."""
    try:
        yield
    except OSError as error:
        raise lost(link.address, reason(error)) from error


def lost(address: Address, why: str) -> UnreachableError:
    told = f"the worker {address} is lost: {why}"
    return UnreachableError(told, hint="start it again, and ask again")


@contextmanager
def tensor_on(link: Link, nbytes: int) -> Iterator[bytes | None]:
    """An rpc_tensor on the worker's first device; None where that has no room. Raises OSError."""
    asked = protocol.ALLOCATE.pack(0, nbytes)
    buffer, _ = protocol.PAIR.unpack(link.ask(protocol.Command.ALLOC_BUFFER, asked))
    if not buffer:
        yield None
        return
    held = protocol.U64.pack(buffer)
    (base,) = protocol.U64.unpack(link.ask(protocol.Command.BUFFER_GET_BASE, held))
    yield _tensor(buffer, base, nbytes)
    link.send(protocol.request(protocol.Command.FREE_BUFFER, held))


def _set(link: Link, tensor: bytes, data: bytes, *, keep: bool = False) -> None:
    body = tensor + bytes([keep]) + protocol.U64.pack(0) + data
    link.send(protocol.request(protocol.Command.SET_TENSOR, body))


def _speaks_http(address: Address) -> bool:
    """Whether a port that waits for more than a HELLO is a web server's. A worker that is busy
    closes the connection when its time comes."""
    with suppress(OSError), socket.create_connection(address, HTTP_PATIENCE) as sock:
        sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
        return sock.recv(5) == b"HTTP/"
    return False


def _compare(link: Link) -> None:
    told = protocol.HELLO.unpack(link.ask(protocol.Command.HELLO, bytes(24)))
    if told != protocol.VERSION:
        theirs, ours = (".".join(map(str, version)) for version in (told, protocol.VERSION))
        raise UnreachableError(
            f"the worker {link.address} speaks RPC {theirs}, this llama.cpp {ours}",
            hint="install the same llamacli on both machines",
        )


def _devices(link: Link) -> tuple[protocol.Lent, ...]:
    (count,) = protocol.U32.unpack(link.ask(protocol.Command.DEVICE_COUNT))
    if not 1 <= count <= protocol.MAX_DEVICES:
        raise protocol.Broken(f"it tells of {count} devices")
    return tuple(_device(link, protocol.U32.pack(number)) for number in range(count))


def _device(link: Link, number: bytes) -> protocol.Lent:
    free, total = protocol.PAIR.unpack(link.ask(protocol.Command.GET_DEVICE_MEMORY, number))
    (alignment,) = protocol.U64.unpack(link.ask(protocol.Command.GET_ALIGNMENT, number))
    (max_size,) = protocol.U64.unpack(link.ask(protocol.Command.GET_MAX_SIZE, number))
    plausible = 1 <= alignment <= 1 << 16 and alignment & (alignment - 1) == 0
    if not plausible or max_size < 1 << 24 or max(free, total) > protocol.MOST_MEMORY:
        raise protocol.Broken("it tells of a memory that can't be")
    return protocol.Lent(free, total, alignment, max_size)


def _tensor(buffer: int, data: int, nbytes: int) -> bytes:
    """An rpc_tensor of bytes in a row."""
    strides = (1, nbytes, nbytes, nbytes)
    shape = (nbytes, 1, 1, 1)
    numbers = [1, protocol.I8, buffer, *shape, *strides, 0, *[0] * 16, 0, *[0] * 10, 0, 0, data]
    return protocol.TENSOR.pack(*numbers, b"probe", 0)


class Weights:
    """The tensors of a model's file."""

    def __init__(self, file: GGUFFile) -> None:
        self._path = Path(file.path)
        self._tensors = {tensor.name: tensor for tensor in file.tensors}

    def has(self, name: str, nbytes: int) -> bool:
        return name in self._tensors and self._tensors[name].nbytes == nbytes

    def samples(self, name: str) -> list[tuple[int, bytes]]:
        """Offsets into a tensor, and SAMPLE bytes that are there; none of one that is tiny."""
        tensor = self._tensors.get(name)
        if tensor is None or tensor.nbytes < SAMPLE:
            return []
        last, found = tensor.nbytes - SAMPLE, []
        with self._path.open("rb") as source:
            for offset in (0, last // 2, last):
                source.seek(tensor.offset + offset)
                found.append((offset, source.read(SAMPLE)))
        return found


def hash_for(link: Link, file: GGUFFile) -> Hash | None:
    """The hash, where the worker keeps weights, and it can be had and is worth it.

    A worker doesn't tell whether it keeps any: it is given a few bytes, and asked for them. Raises
    UnreachableError.
    """
    small = sum(tensor.nbytes for tensor in file.tensors if tensor.nbytes <= MOST)
    if small < WORTH or importlib.util.find_spec("numba") is None:
        return None
    with told_of(link), tensor_on(link, KEPT) as tensor:
        if tensor is None:
            return None
        _set(link, tensor, bytes(KEPT), keep=True)
        hashed = START * pow(PRIME, KEPT, 1 << 64) % (1 << 64)  # of zeros
        asked = protocol.part(tensor, 0, hashed)
        kept = link.ask(protocol.Command.SET_TENSOR_HASH, asked) == b"\1"
    return _compiled() if kept else None


@cache
def _compiled() -> Hash:
    import numpy as np
    from numba import njit

    prime = np.uint64(PRIME)

    @njit("uint64(uint8[::1], uint64)", nogil=True)
    def fnv(data: Any, value: Any) -> Any:
        for byte in data:
            value = (value ^ np.uint64(byte)) * prime
        return value

    return lambda data: int(fnv(np.frombuffer(data, np.uint8), START))
