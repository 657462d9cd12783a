"""Bending bytes and JSON, by a seeded generator."""

import json
import struct
from collections.abc import Callable
from copy import deepcopy
from random import Random
from typing import Any

EXTREMES = (
    *(0, 1, 2, 3, 7, 8, 31, 32, 33, 63, 64, 127, 128, 255, 256, 65535, 65536),
    *((1 << 24) - 1, 1 << 24, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32),
    *((1 << 40), (1 << 62), (1 << 63) - 1, 1 << 63, (1 << 64) - 32, (1 << 64) - 1),
)
TEXTS = (
    *("", " ", "\0", "a\0b", "\x1b]0;title\x07\x1b[31m", "\x9b31m", "\ud800", "\ufdd0", "\u202e"),
    *("x" * 70, "Ġ" * 5000, "語" * 3000, "../../../etc/passwd", "/etc/passwd", "-o", "%s%n%x"),
    *("{{ [].__class__.__base__ }}", "{% for i in range(10**9) %}{% endfor %}", "<|eot_id|>"),
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, -1, -(1 << 31), -(1 << 63), 0.5, -0.0, 1e-320, 1e38, 1e308),
    *(float("nan"), float("inf"), float("-inf"), [], {}, [[]], [None], {"": None}),
    *EXTREMES,
    *TEXTS,
)
# What json.dumps would not write.
RAW = (
    *("9" * 5000, "-" + "9" * 4000 + ".5", "1e999", "[" * 100_000, '{"a":' * 100_000),
    *('{"a": 1, "a": 2}', "[" * 900 + "]" * 900, "01", "'a'", "", "nan", '"\\ud800"', '"\\x"'),
)


def bend_bytes(rng: Random, data: bytes, times: int = 1, within: int | None = None) -> bytes:
    """Bytes flipped, overwritten, cut out, doubled or cut off, within the first so many of them."""
    for _ in range(times):
        end = max(1, min(len(data), within or len(data)))
        at = rng.randrange(end)
        length = min(rng.choice((1, 1, 2, 4, 8, 8, 16, 100)), max(1, len(data) - at))
        kind = rng.randrange(8)
        if kind < 3:
            piece = bytes([data[at] ^ 1 << rng.randrange(8)]) if data else b"\0"
            length = 1
        elif kind == 3:
            piece = rng.choice((b"\0", b"\xff", b"\x80", b"\x7f")) * length
        elif kind == 4:
            piece = rng.randbytes(length)
        elif kind == 5:
            piece = b""
        elif kind == 6:
            piece = data[at : at + length] * 2
        else:
            data = data[: rng.randrange(len(data) + 1)]
            continue
        data = data[:at] + piece + data[at + length :]
    return data


def bend_json(rng: Random, value: Any, times: int = 1) -> bytes:
    """The value as JSON with some of its parts changed, missing, doubled or swapped."""
    value = json.loads(json.dumps(value))
    raw: list[str] = []
    for _ in range(times):
        value = _bend(rng, value, raw)
    text = json.dumps(value)
    for i, piece in enumerate(raw):
        text = text.replace(json.dumps(_place(i)), piece)
    data = text.encode()
    return bend_bytes(rng, data) if rng.random() < 0.1 else data


def _place(number: int) -> str:
    return f"@raw {number}@"


def _bend(rng: Random, value: Any, raw: list[str]) -> Any:
    if not isinstance(value, dict | list) or not value or rng.random() < 0.1:
        return _other(rng, value, raw)
    keys: list[Any] = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = rng.choice(keys)
    kind = rng.randrange(12)
    if kind == 0:
        del value[key]
    elif kind == 1 and isinstance(value, dict):
        value[rng.choice((key.upper(), key + "s", rng.choice(TEXTS)))] = value.pop(key)
    elif kind == 1:
        value.append(deepcopy(value[key]))
    elif kind == 2:
        other = rng.choice(keys)
        value[key], value[other] = value[other], value[key]
    elif kind == 3:
        value[key] = deepcopy(value[rng.choice(keys)])
    elif kind == 4 and isinstance(value, dict):
        value[rng.choice(TEXTS)] = _other(rng, value[key], raw)
    else:
        value[key] = _bend(rng, value[key], raw)
    return value


def _other(rng: Random, value: Any, raw: list[str]) -> Any:
    kind = rng.randrange(10)
    if kind == 0:
        raw.append(rng.choice(RAW))
        return _place(len(raw) - 1)
    if kind == 1:
        return [value]
    if kind == 2:
        return {"x": value}
    if kind == 3:
        return str(value)
    if kind < 7 and isinstance(value, int | float):
        changes: tuple[Callable[[Any], Any], ...] = (
            lambda n: n + 1,
            lambda n: n - 1,
            lambda n: -n,
            lambda n: n * 2,
            lambda n: n / 2,
            lambda n: n * 1_000_000,
        )
        return rng.choice(changes)(value)
    return deepcopy(rng.choice(VALUES))  # else a later bend would reach into it


def bend_safetensors(rng: Random, good: bytes) -> bytes:
    """A mutant of a sound safetensors file: of its header, of its length, or of its bytes."""
    (length,) = struct.unpack_from("<Q", good)
    header, data = good[8 : 8 + length], good[8 + length :]
    if rng.random() < 0.7:
        header = bend_json(rng, json.loads(header), rng.choice((1, 1, 2, 4)))
        length = len(header)
    if rng.random() < 0.2:
        length = rng.choice((*EXTREMES, length + 1, length - 1))
    bad = struct.pack("<Q", length) + header + data
    if rng.random() < 0.3:
        bad = bend_bytes(rng, bad, rng.choice((1, 1, 5)), rng.choice((length + 8, None)))
    return bad
