"""Weights that a worker has kept on its disk: asked for by llama.cpp's hash of their bytes.

llama.cpp itself asks so for tensors of more than 10 MiB. The smaller ones, which are all of a small
model's, are asked for by the relay, where numba is installed: without it the hash takes longer than
sending them.
"""

import importlib.util
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from llamacli.gguf import GGUFFile
from llamacli.workers.greeting import Link, tensor_on
from llamacli.workers.protocol import PAIR, TENSOR, U64, Command, send

START, PRIME = 0xCBF29CE484222325, 0x100000001B3  # FNV-1a's, of 64 bits
FLAG = TENSOR.size  # where a SET_TENSOR says whether to keep its bytes
HEADER = FLAG + 1 + U64.size  # what stands before them
MOST = 10 << 20  # bytes, beyond which llama.cpp asks by itself
WORTH = 64 << 20  # bytes of a file's smaller tensors; fewer are sent sooner than numba is ready
SAMPLE = 256  # bytes that are compared, at three places of a tensor
PROBE = 256

Hash = Callable[[memoryview], int]


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
    """The hash, where the worker keeps weights, and it can be had and is worth it. Raises OSError.

    A worker doesn't tell whether it keeps any: it is given a few bytes, and asked for them.
    """
    small = sum(tensor.nbytes for tensor in file.tensors if tensor.nbytes <= MOST)
    if small < WORTH or importlib.util.find_spec("numba") is None:
        return None
    with tensor_on(link, PROBE) as tensor:
        if tensor is None:
            return None
        flag, offset = b"\1", bytes(U64.size)
        send(link.sock, Command.SET_TENSOR, tensor + flag + offset + bytes(PROBE))
        hashed = START * pow(PRIME, PROBE, 1 << 64) % (1 << 64)  # of zeros
        kept = link.ask(Command.SET_TENSOR_HASH, tensor + PAIR.pack(0, hashed))
    return _compiled() if kept == b"\1" else None


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
