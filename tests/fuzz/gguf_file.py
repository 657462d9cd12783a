"""GGUF files taken apart, bent where it hurts, and put together again."""

import math
import struct
from collections import defaultdict
from dataclasses import dataclass, field
from random import Random
from typing import Any

from tests.fuzz.mutate import EXTREMES, TEXTS, bend_bytes

STRING, ARRAY = 8, 9
FORMATS = dict(enumerate("BbHhIif?")) | {10: "Q", 11: "q", 12: "d"}
SPECIAL_FLOATS = (float("nan"), float("inf"), float("-inf"), -1.0, 0.0, 1e-30, 1e30, 1e308)


@dataclass
class Pair:
    """value is a number, bytes, or for arrays a list; kind and of are GGUF types."""

    key: bytes
    kind: int
    value: Any
    of: int = 0


@dataclass
class Tensor:
    name: bytes
    shape: list[int]
    kind: int
    offset: int


@dataclass
class File:
    pairs: list[Pair]
    tensors: list[Tensor]
    data: bytes


@dataclass
class _Bytes:
    """What is written so far, and where its numbers are, by what they mean."""

    data: bytearray = field(default_factory=bytearray)
    places: dict[str, list[tuple[int, int]]] = field(default_factory=lambda: defaultdict(list))

    def number(self, what: str, form: str, value: Any) -> None:
        self.places[what].append((len(self.data), struct.calcsize("<" + form)))
        self.data += _packed(form, value)

    def string(self, what: str, text: bytes) -> None:
        self.number(f"{what} length", "Q", len(text))
        self.data += text


def _packed(form: str, value: Any) -> bytes:
    if form in "fd":
        try:
            return struct.pack("<" + form, value)
        except OverflowError:
            return struct.pack("<" + form, float("inf"))
    size = struct.calcsize(form)
    value = value if math.isfinite(value) else 0
    return (int(value) & ((1 << 8 * size) - 1)).to_bytes(size, "little")


def parse(data: bytes) -> File:
    """The parts of a sound file."""
    position = 8

    def number(form: str) -> Any:
        nonlocal position
        position += struct.calcsize("<" + form)
        return struct.unpack_from("<" + form, data, position - struct.calcsize("<" + form))[0]

    def string() -> bytes:
        nonlocal position
        length = number("Q")
        position += length
        return data[position - length : position]

    def value(kind: int) -> Any:
        return string() if kind == STRING else number(FORMATS[kind])

    tensor_count, pair_count = number("Q"), number("Q")
    pairs = []
    for _ in range(pair_count):
        key, kind = string(), number("I")
        if kind == ARRAY:
            of, length = number("I"), number("Q")
            pairs.append(Pair(key, kind, [value(of) for _ in range(length)], of))
        else:
            pairs.append(Pair(key, kind, value(kind)))
    tensors = [
        Tensor(string(), [number("Q") for _ in range(number("I"))], number("I"), number("Q"))
        for _ in range(tensor_count)
    ]
    return File(pairs, tensors, data[position + -position % 32 :])


def _written(file: File) -> _Bytes:
    out = _Bytes(bytearray(b"GGUF"))
    out.number("version", "I", 3)
    out.number("count", "Q", len(file.tensors))
    out.number("count", "Q", len(file.pairs))
    for pair in file.pairs:
        out.string("key", pair.key)
        out.number("type", "I", pair.kind)
        if pair.kind == ARRAY:
            out.number("element type", "I", pair.of)
            out.number("array length", "Q", len(pair.value))
        for value in pair.value if pair.kind == ARRAY else [pair.value]:
            kind = pair.of if pair.kind == ARRAY else pair.kind
            what = "element" if pair.kind == ARRAY else "value"
            if kind == STRING:
                out.string(what, value if isinstance(value, bytes) else str(value).encode())
            else:
                out.number(what, FORMATS.get(kind, "I"), 0 if isinstance(value, bytes) else value)
    for tensor in file.tensors:
        out.string("name", tensor.name)
        out.number("dimensions", "I", len(tensor.shape))
        for length in tensor.shape:
            out.number("dimension", "Q", length)
        out.number("tensor type", "I", tensor.kind)
        out.number("offset", "Q", tensor.offset)
    out.data += bytes(-len(out.data) % 32)
    out.places["data"].append((len(out.data), 4))
    out.data += file.data
    return out


def mutant(rng: Random, good: File) -> bytes:
    """One file of a kind that is mostly sound, so that it gets past the first checks."""
    file = File(list(good.pairs), [*good.tensors], good.data)
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3))):
        (_bend_pairs if rng.random() < 0.6 else _bend_tensors)(rng, file)
    out = _written(file)
    if rng.random() < 0.5:
        for _ in range(rng.choice((1, 1, 2, 4))):
            _bend_place(rng, out)
    data = bytes(out.data)
    if rng.random() < 0.25:
        start = out.places["data"][0][0]
        data = bend_bytes(rng, data, rng.choice((1, 1, 3, 10)), rng.choice((start, None)))
    return data


def _bend_place(rng: Random, out: _Bytes) -> None:
    at, size = rng.choice(out.places[rng.choice(list(out.places))])
    old = int.from_bytes(out.data[at : at + size], "little")
    near = (old + 1, old - 1, old * 2, old // 2, old ^ 1 << rng.randrange(8 * size))
    value = rng.choice((*near, rng.choice(EXTREMES), len(out.data), len(out.data) - at))
    out.data[at : at + size] = (value & ((1 << 8 * size) - 1)).to_bytes(size, "little")


def _bend_pairs(rng: Random, file: File) -> None:
    at = rng.randrange(len(file.pairs))
    pair = file.pairs[at]
    kind = rng.randrange(8)
    if kind == 0:
        del file.pairs[at]
        return
    if kind == 1:
        file.pairs.insert(rng.randrange(at, len(file.pairs)), pair)
        return
    if kind == 2:
        text = rng.choice(TEXTS).encode("utf-8", "surrogatepass")
        key = rng.choice((rng.choice(file.pairs).key, text))
        changed = Pair(key, pair.kind, pair.value, pair.of)
    elif kind == 3 and pair.kind != ARRAY:
        changed = Pair(pair.key, rng.choice((*FORMATS, STRING)), pair.value)
    elif kind == 3:
        changed = Pair(pair.key, ARRAY, pair.value, rng.choice((*FORMATS, STRING, ARRAY)))
    elif kind == 4:
        changed = Pair(pair.key, ARRAY, [pair.value] * rng.choice((1, 2, 600)), pair.kind)
        if pair.kind == ARRAY:
            changed = Pair(pair.key, pair.of, pair.value[0] if pair.value else 0)
    elif pair.kind == ARRAY:
        changed = Pair(pair.key, ARRAY, _bent_array(rng, pair.value, pair.of), pair.of)
    else:
        changed = Pair(pair.key, pair.kind, _other(rng, pair.value))
    file.pairs[at] = changed


def _bent_array(rng: Random, values: list[Any], of: int) -> list[Any]:
    values = list(values)
    for _ in range(rng.choice((1, 1, 2, 20))):
        if not values:
            return values
        at = rng.randrange(len(values))
        kind = rng.randrange(5)
        if kind == 0:
            del values[at]
        elif kind == 1:
            values.insert(at, values[at])
        elif kind == 2:
            other = rng.randrange(len(values))
            values[at], values[other] = values[other], values[at]
        else:
            values[at] = _other(rng, values[at])
    return values


def _other(rng: Random, value: Any) -> Any:
    if isinstance(value, bytes):
        text = rng.choice(TEXTS).encode("utf-8", "surrogatepass")
        return rng.choice((text, value * 2, value[:-1], bend_bytes(rng, value or b"a")))
    if isinstance(value, float):
        return rng.choice((*SPECIAL_FLOATS, value * 2, -value))
    return rng.choice((*EXTREMES, value + 1, value - 1, value * 2, -1))


def _bend_tensors(rng: Random, file: File) -> None:
    if not file.tensors:
        return
    at = rng.randrange(len(file.tensors))
    old = file.tensors[at]
    tensor = Tensor(old.name, list(old.shape), old.kind, old.offset)
    kind = rng.randrange(8)
    if kind == 0:
        del file.tensors[at]
        return
    if kind == 1:
        file.tensors.append(tensor)
        return
    if kind == 2:
        tensor.name = rng.choice(
            (rng.choice(file.tensors).name, b"rope_freqs.weight", tensor.name + b"x", b"", b"a\0b")
        )
    elif kind == 3:
        tensor.shape[rng.randrange(len(tensor.shape))] = rng.choice(EXTREMES)
    elif kind == 4:
        tensor.shape = rng.choice(
            (tensor.shape[::-1], [*tensor.shape, 1], [1, *tensor.shape], tensor.shape * 3, [])
        )
    elif kind == 5:
        tensor.kind = rng.randrange(-1, 45)
    elif kind == 6:
        tensor.offset = rng.choice((*EXTREMES, old.offset + 32, old.offset - 32))
    else:
        other = rng.randrange(len(file.tensors))
        file.tensors[at] = file.tensors[other]
        at = other
    file.tensors[at] = tensor
