"""Which vocabularies have passed the checks, kept in the store's vocabularies.json."""

import hashlib
import json
from contextlib import suppress
from dataclasses import astuple
from pathlib import Path

from llamacli.errors import LlamacliError
from llamacli.gguf.check import check_tokens
from llamacli.gguf.contents import GGUFFile
from llamacli.gguf.known import KnownStrings
from llamacli.home import home, replace_file

CHECKS = 1  # raised where file.py or check.py ask more of strings: what passed is checked anew
KEYS = ("tokenizer.ggml.tokens", "tokenizer.ggml.merges")
MOST = 16  # arrays that are kept, two a vocabulary
MAX_BYTES = 1 << 16  # of the file
LARGEST = 64 << 20  # bytes of an array that is kept; Llama 3's have 5 MB


def recall() -> tuple[KnownStrings, ...]:
    """What passed, the newest first; nothing where the file is missing, damaged or outdated."""
    with suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
        with _path().open("rb") as file:
            kept = json.loads(file.read(MAX_BYTES))
        if kept["checks"] == CHECKS:
            return tuple(_sound(*one) for one in kept["arrays"])
    return ()


def remember(file: GGUFFile) -> None:
    """Keep the strings of a file that has passed check_vocabulary, where the disk lets it.

    They are read and checked once more, so that a file which changes meanwhile leaves nothing here
    that hasn't passed.
    """
    if file.known.issuperset(KEYS) or any(file.metadata[k].nbytes > LARGEST for k in KEYS):
        return
    try:
        passed = [_passed(file, key) for key in KEYS]
        kept = [*passed, *(one for one in recall() if one not in passed)][:MOST]
        value = {"checks": CHECKS, "arrays": [astuple(one) for one in kept]}
        replace_file(_path(), json.dumps(value).encode())
    except (LlamacliError, OSError):
        return


def _passed(file: GGUFFile, key: str) -> KnownStrings:
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
