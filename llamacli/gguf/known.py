"""Vocabularies that have passed every check before, known again by the SHA-256 of their bytes.

Stepping over 400,000 strings and checking half of them takes Python 60 ms, hashing them 3 ms.
"""

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass
from mmap import mmap
from pathlib import Path
from typing import TYPE_CHECKING

from llamacli.errors import LlamacliError
from llamacli.models.store import home, replace_file

if TYPE_CHECKING:
    from llamacli.gguf.file import GGUFFile

CHECKS = 1  # raised where gguf_file or gguf_check ask more of strings: what passed is checked anew
KEYS = ("tokenizer.ggml.tokens", "tokenizer.ggml.merges")
MOST = 16  # arrays that are kept, two a vocabulary
MAX_BYTES = 1 << 16  # of the file
LARGEST = 64 << 20  # bytes of an array that is kept; Llama 3's have 5 MB


@dataclass(frozen=True)
class KnownStrings:
    """A key's array of strings: how many, their bytes in the file, and the digest of those."""

    key: str
    length: int
    nbytes: int
    sha256: str


def recognized_end(
    data: mmap, start: int, key: str, length: int, known: Sequence[KnownStrings]
) -> int | None:
    """Where the strings of key end that start there, if they are among the known ones."""
    for one in known:
        end = start + one.nbytes
        if (one.key, one.length) == (key, length) and start <= end <= len(data):
            with memoryview(data) as whole, whole[start:end] as part:
                if hashlib.sha256(part).hexdigest() == one.sha256:
                    return end
    return None


def recall() -> tuple[KnownStrings, ...]:
    """What passed, the newest first; nothing where the file is missing, damaged or outdated."""
    with suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
        with _path().open("rb") as file:
            kept = json.loads(file.read(MAX_BYTES))
        if kept["checks"] == CHECKS:
            return tuple(_sound(*one) for one in kept["arrays"])
    return ()


def remember(file: "GGUFFile") -> None:
    """Keep the strings of a file that has passed check_vocabulary, where the disk lets it.

    They are read and checked once more, so that a file which changes meanwhile leaves nothing here
    that hasn't passed.
    """
    if file.known.issuperset(KEYS) or any(file.metadata[k].nbytes > LARGEST for k in KEYS):
        return
    try:
        found = [_passed(file, key) for key in KEYS]
        kept = [*found, *(one for one in recall() if one not in found)][:MOST]
        value = {"checks": CHECKS, "arrays": [astuple(one) for one in kept]}
        replace_file(_path(), json.dumps(value).encode())
    except (LlamacliError, OSError):
        return


def _passed(file: "GGUFFile", key: str) -> KnownStrings:
    from llamacli.gguf.check import check_tokens

    data = file.raw(key)
    strings = file.strings_in(data, key)
    if key == KEYS[0]:
        check_tokens(file, strings)
    return KnownStrings(key, len(strings), len(data), hashlib.sha256(data).hexdigest())


def _path() -> Path:
    return home() / "vocabularies.json"


def _sound(key: str, length: int, nbytes: int, sha256: str) -> KnownStrings:
    if not (type(length) is type(nbytes) is int and type(key) is type(sha256) is str):
        raise TypeError
    return KnownStrings(key, length, nbytes, sha256)
