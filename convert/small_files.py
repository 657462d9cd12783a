"""The JSON files and the chat template of a checkpoint, read with care: they may be anything."""

import gc
import json
import math
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from convert.errors import CheckpointError, unreadable

MAX_FILE = 64 << 20  # bytes; Llama 3's tokenizer.json has 9 or 17 MB
MAX_MEMORY = 512 << 20  # bytes that Python's objects may take of it
MAX_TEMPLATE = 4 << 20
# What to do about a file that isn't there, by its name.
MISSING = {
    "tokenizer.json": "fetch it from the model that this one was made from, or have transformers' "
    "AutoTokenizer write it by save_pretrained",
}
DEFAULT, TOOL_USE = "default", "tool_use"
TEMPLATE_FILES = {
    DEFAULT: "chat_template.jinja",
    TOOL_USE: "additional_chat_templates/tool_use.jinja",
}
SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
LFS = b"version https://git-lfs.github.com/spec/"


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of sane size. Raises CheckpointError naming the file."""
    raw = _read(path, MAX_FILE)
    try:
        value = parse_json(raw)
        # Halves of pairs can't be written; whole ones can.
        if (b"\\ud" in raw or b"\\uD" in raw) and SURROGATE.search(raw):
            json.dumps(value, ensure_ascii=False).encode()
    except CheckpointError as error:
        error.file = path.name
        raise
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"it is not valid JSON: {error}", file=path.name) from None
    if not isinstance(value, dict):
        raise CheckpointError("it holds no JSON object", file=path.name)
    return value


def boolean(raw: Mapping[str, Any], key: str, file: str, told: str = "") -> bool:
    """A key's value, false where it is missing or null. Raises CheckpointError naming both."""
    value = raw.get(key)
    if not isinstance(value, bool | None):
        raise CheckpointError(f"{told or key} is {value!r}, expected true or false", file=file)
    return bool(value)


def optional_json(path: Path) -> dict[str, Any]:
    """read_json, or an empty object where there is no such file."""
    return read_json(path) if path.exists() else {}


def parse_json(raw: bytes | bytearray) -> Any:
    """The value of a text in UTF-8, without NaN and infinities, which JSON hasn't.

    It can't take more than MAX_MEMORY, told by what the text has of values: a list takes 56 bytes,
    and two of them in the text. Raises CheckpointError, ValueError, RecursionError.
    """
    lists, values, strings = raw.count(b"[") + raw.count(b"{"), raw.count(b","), raw.count(b'"')
    nbytes = 2 * len(raw) + 72 * lists + 40 * (values + lists) + 32 * strings
    if nbytes > MAX_MEMORY:
        raise CheckpointError(f"it is absurdly large: read, it could take {nbytes >> 20} MiB")
    with without_collection():
        return json.loads(raw.decode("utf-8-sig"), parse_float=_finite, parse_constant=_finite)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is no finite number")
    return number


def read_chat_templates(folder: Path, tokenizer_config: Mapping[str, Any]) -> dict[str, str]:
    """The chat templates by their names: DEFAULT, and TOOL_USE, which some models have for tools.

    As in transformers, those in files of their own where there are any, else
    tokenizer_config.json's, which are one text or a list of named ones; others mean nothing here.
    """
    paths = {name: folder / path for name, path in TEMPLATE_FILES.items()}
    files = {name: path for name, path in paths.items() if path.exists()}
    if files:
        return {name: _read_template(path) for name, path in files.items()}
    given = tokenizer_config.get("chat_template")
    named: dict[str, Any] = {DEFAULT: given}
    if isinstance(given, list):
        entries = [one for one in given if isinstance(one, dict)]
        named = {str(entry.get("name")): entry.get("template") for entry in entries}
    found = {name: named[name] for name in TEMPLATE_FILES if named.get(name) is not None}
    for template in found.values():
        if not isinstance(template, str) or len(template) > MAX_TEMPLATE:
            fault = f"chat_template is not a text of at most {MAX_TEMPLATE} letters"
            raise CheckpointError(fault, file="tokenizer_config.json")
    return found


def _read_template(path: Path) -> str:
    try:
        return _read(path, MAX_TEMPLATE).decode()
    except UnicodeDecodeError as error:
        raise CheckpointError(f"it can't be read: {error}", file=path.name) from error


def _read(path: Path, limit: int) -> bytes:
    """All of a file; not of one that is too large, or no regular file: a link may lead to a device
    without an end."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise CheckpointError("it is not a regular file", file=path.name)
        if status.st_size > limit:
            raise CheckpointError(
                f"it is absurdly large ({status.st_size} bytes, of {limit} at most)", file=path.name
            )
        raw = path.read_bytes()
    except FileNotFoundError:
        hint = MISSING.get(path.name, "")
        raise CheckpointError(f"{path.name} is missing in {path.parent}", hint=hint) from None
    except OSError as error:
        raise unreadable(str(path), error) from error
    refuse_pointer(raw, path.name)
    return raw


def refuse_pointer(start: bytes | bytearray, name: str) -> None:
    """Say so where a file holds no more than Git LFS's note of where it is."""
    if start.startswith(LFS):
        raise CheckpointError(
            "it is a Git LFS pointer, not the file itself",
            file=name,
            hint="fetch the files with `git lfs pull`, or convert the model by its Hub id",
        )


@contextmanager
def without_collection() -> Iterator[None]:
    """Half a million new lists set the garbage collector off again and again, for nothing, and once
    more after it where they are still there."""
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()
