"""The KV state of prompts' stable starts on disk, so that repeated calls don't read them again.

States lie in the store's folder `cache`, under a name of the user's or a hash of the model, the
settings and the tokens. Several processes may use it at once: files appear whole and are never
changed. Above a size limit those go that were not used for longest.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from llamacli.engine import Unusable, common_prefix, restore, save, saved_tokens, state_key
from llamacli.errors import UsageError, reason
from llamacli.home import home
from llamacli.prompt.input import Input, Text

if TYPE_CHECKING:
    from llamacli.engine import Engine

AUTO = "auto"
LEAST = 32  # tokens that are worth a file
LIMIT_MIB = 4096
LIMIT_VARIABLE = "LLAMACLI_CACHE_MIB"
STALE = 3600.0  # seconds after which a temporary file was left by a process that died
SUFFIX = ".kv"

Encode = Callable[[Input], list[int]]


def cache_path(engine: "Engine", name: str, prefix: Sequence[int]) -> Path:
    """The file of a checked name, or, for `auto`, of the prefix."""
    if name == AUTO:
        key = json.dumps([state_key(engine), list(prefix)]).encode()
        name = f"auto-{hashlib.sha256(key).hexdigest()[:32]}"
    else:
        name = f"name-{name}"
    return home("cache") / f"{name}{SUFFIX}"


def stable_prefix(given: Input, encode: Encode, system: str | None) -> list[int]:
    """The tokens in front of what changes from call to call.

    That is the text below an instruction; without a text, the instruction below a system prompt;
    without either, nothing: all of the prompt is stable. Two stand-ins for what changes show where
    their prompts part, whatever the template and the tokenizer make of it.
    """
    if given.instruction and given.texts:
        first_name, *others = given.texts[0].name, *given.texts[1:]
        probes = [
            Input(given.instruction, (Text(first_name, probe), *others)) for probe in ("a", "1")
        ]
    elif system is not None:
        probes = [Input(probe) for probe in ("a", "1")]
    else:
        return encode(given)
    first, second = map(encode, probes)
    return first[: common_prefix(first, second)]


def load(engine: "Engine", path: Path, tokens: Sequence[int]) -> str | None:
    """Fill the engine's KV cache with what the file has of tokens; says why not, where it tried."""
    try:
        if not path.exists():
            return None
        saved = saved_tokens(path, state_key(engine))
        if common_prefix(saved, tokens) < LEAST:
            return None
        restore(engine, path)
    except Unusable as error:
        return str(error)
    except OSError as error:
        return reason(error)
    with suppress(OSError):  # a folder that can't be written can still be read
        os.utime(path)
    return None


def store(engine: "Engine", path: Path, prefix: Sequence[int]) -> None:
    """Save the state of prefix, which the engine's tokens begin with; the others are dropped.

    Raises OSError where it can't be written.
    """
    if len(prefix) < LEAST or engine.tokens[: len(prefix)] != list(prefix):
        return
    engine.keep(len(prefix))
    limit = limit_bytes()
    if engine.library.llama_state_seq_get_size(engine.context_pointer, 0) > limit:
        return
    save(engine, path)
    prune(path.parent, limit, path)


def limit_bytes() -> int:
    """Bytes that the cache may take. Raises UsageError where the variable is no number."""
    value = os.environ.get(LIMIT_VARIABLE) or str(LIMIT_MIB)
    if not value.isdecimal():
        raise UsageError(f"{LIMIT_VARIABLE} is {value!r}; give a number of MiB")
    return int(value) << 20


def prune(where: Path, limit: int, newest: Path | None = None) -> None:
    """Drop the states used longest ago until limit holds, and what dead processes left."""
    states = []
    for path in where.iterdir():
        with suppress(OSError):  # another process may have dropped it just now
            status = path.stat()
            if path.name.startswith("."):
                if time.time() - status.st_mtime > STALE:
                    path.unlink()
            elif path.suffix == SUFFIX:
                states.append((path == newest, status.st_mtime, status.st_size, path))
    total = sum(size for _, _, size, _ in states)
    for _, _, size, path in sorted(states):
        if total <= limit:
            break
        with suppress(OSError):
            path.unlink()
        total -= size
