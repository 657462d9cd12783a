"""The KV cache of an engine's tokens as a file: saved whole or not, checked before C sees it.

A file is MAGIC, the SHA-256 of all that follows, the header's length (u64, little endian), the
header (JSON: key, tokens) and llama.cpp's own sequence state. The hash finds damage; what the state
says of itself (cells, positions, layers, types, sizes) must be what the model makes of that
many tokens, so that a forged one can't lead llama.cpp beyond its buffers.
"""

import hashlib
import json
import mmap
import os
import struct
from ctypes import POINTER, addressof, c_char, c_uint8, cast
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from convert import deferred_signals
from llamacli.engine.adapters import adapters_key
from llamacli.engine.settings import KV_TYPES
from llamacli.gguf import TENSOR_TYPES
from llamacli.home import replace_file

if TYPE_CHECKING:
    from llamacli.engine.engine import Engine

MAGIC = b"llamacli KV v1\n\n"
DIGEST = 32
START = len(MAGIC) + DIGEST
MAX_HEADER = 16 << 20  # bytes of JSON, which can swell to 35 times that


class Unusable(Exception):
    """Why a saved state can't be used; never more than a notice to a user."""


def state_key(engine: "Engine") -> str:
    """What a state depends on beside its tokens: the loaded file, the KV types, llama.cpp,
    and the LoRA adapters in use with their scales."""
    settings = engine.settings
    described = [
        *engine.identity,
        settings.kv_type,
        settings.flash_attention,
        engine.library.llama_version().decode(errors="replace"),
        *adapters_key(engine.adapters, engine.scales),
    ]
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()


def save(engine: "Engine", path: Path) -> None:
    """Save the KV cache of engine.tokens, under a temporary name first; raises OSError."""
    payload = memoryview(engine.sequence_state()).cast("B")
    header = json.dumps({"key": state_key(engine), "tokens": engine.tokens}).encode()
    head = struct.pack("<Q", len(header)) + header
    digest = hashlib.sha256(head)
    digest.update(payload)
    replace_file(path, MAGIC, digest.digest(), head, payload)


def saved_tokens(path: Path, key: str) -> list[int]:
    """The tokens that a file says it holds, unchecked, to choose by; raises Unusable."""
    try:
        with path.open("rb") as file:
            return _header(file.read(START + 8), file, key)
    except OSError as error:
        raise Unusable(f"it can't be read: {error.strerror}") from None


def restore(engine: "Engine", path: Path) -> int:
    """Fill the engine's KV cache from a file; how many tokens it holds then.

    Raises Unusable, the cache being empty, where the file is missing, damaged, of another model
    or setting, or longer than the context.
    """
    engine.keep(0)
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size <= START + 8:
                raise Unusable("it is cut short")
            with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY) as data:
                return _restore(engine, data)
    except OSError as error:
        raise Unusable(f"it can't be read: {error.strerror}") from None


def _restore(engine: "Engine", data: mmap.mmap) -> int:
    view = memoryview(data)
    try:
        if data[: len(MAGIC)] != MAGIC:
            raise Unusable("it is not a saved KV cache")
        if hashlib.sha256(view[START:]).digest() != data[len(MAGIC) : START]:
            raise Unusable("it is damaged")
    finally:
        view.release()
    data.seek(START + 8)
    tokens = _header(data[: START + 8], data, state_key(engine))
    start = data.tell()
    if len(tokens) > engine.context_size:
        raise Unusable(f"it holds {len(tokens)} tokens, the context {engine.context_size}")
    if not all(0 <= token < engine.vocabulary.size for token in tokens):
        raise Unusable("it holds tokens that the model doesn't know")
    _check_state(engine, data, start, len(tokens))
    engine.make_room(len(tokens))
    first = c_char.from_buffer(data, start)
    size = len(data) - start
    source = cast(addressof(first), POINTER(c_uint8))
    try:
        with deferred_signals([]):  # llama.cpp logs what it doesn't take
            read = engine.library.llama_state_seq_set_data(engine.context_pointer, source, size, 0)
    finally:
        del first  # else the mapping can't be closed
    if read != size:
        engine.keep(0)
        raise Unusable("llama.cpp doesn't take it")
    engine.tokens[:] = tokens
    return len(tokens)


def _header(start: bytes, file: BinaryIO | mmap.mmap, key: str) -> list[int]:
    """The tokens; file stands behind start and is read to the header's end."""
    if len(start) < START + 8 or start[: len(MAGIC)] != MAGIC:
        raise Unusable("it is not a saved KV cache")
    (length,) = struct.unpack("<Q", start[START:])
    if length > MAX_HEADER:
        raise Unusable("its header is too long")
    try:
        header = json.loads(file.read(length))
        tokens: list[int] = header["tokens"]
        of_another = header["key"] != key
    except (ValueError, KeyError, TypeError, RecursionError):
        raise Unusable("its header can't be read") from None
    if of_another:
        raise Unusable("it was made with another model or other settings")
    if not isinstance(tokens, list) or not tokens or not all(type(t) is int for t in tokens):
        raise Unusable("it holds no tokens")
    return tokens


def _check_state(engine: "Engine", data: mmap.mmap, start: int, tokens: int) -> None:
    """Compare every field of llama.cpp's state with what it must be; the size is then exact."""
    shape, kind = engine.shape, KV_TYPES[engine.settings.kv_type]
    packed, width = TENSOR_TYPES[kind], shape.kv_heads * shape.head_size
    row = width // packed.block * packed.nbytes
    data.seek(start)
    _, _, *counts = _take(data, "<IiII")
    _expect(counts == [1, tokens])
    if len(data) - data.tell() < (12 + 2 * shape.blocks * row) * tokens:
        raise Unusable("it is cut short")
    cells = [_take(data, "<iIi")[:2] for _ in range(tokens)]
    _expect(sorted(cells) == [(position, 1) for position in range(tokens)])
    transposed, layers = _take(data, "<II")
    _expect(layers == shape.blocks)
    for layer in range(2 * layers):
        if layer >= layers and transposed:
            _expect(_take(data, "<iII") == (kind, packed.nbytes, width))
        else:
            _expect(_take(data, "<iQ") == (kind, row))
        _expect(data.tell() + row * tokens <= len(data))
        data.seek(row * tokens, os.SEEK_CUR)
    _expect(data.tell() == len(data))


def _take(data: mmap.mmap, form: str) -> tuple[int, ...]:
    raw = data.read(struct.calcsize(form))
    _expect(len(raw) == struct.calcsize(form))
    return struct.unpack(form, raw)


def _expect(holds: bool) -> None:
    if not holds:
        raise Unusable("its fields are not those of this model's KV cache")
