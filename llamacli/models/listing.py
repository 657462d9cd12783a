"""What is in the store, a row a file: read from each file's header, no weights."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from llamacli.errors import LlamacliError
from llamacli.gguf import read_gguf
from llamacli.models.names import short_names
from llamacli.models.store import last_used, stored_models


@dataclass(frozen=True)
class Stored:
    """A file of the store; used is None where it never was.

    Where the file can't be read, problem says why, and quantization and context are None.
    """

    path: Path
    short_names: tuple[str, ...]
    quantization: str | None
    context: int | None
    bytes: int
    used: datetime | None
    problem: str | None = None


def inventory() -> list[Stored]:
    """Every file by name; those that vanish meanwhile are left out."""
    models = []
    for path in stored_models():
        try:
            size = path.stat().st_size
        except OSError:
            continue
        names = tuple(short_names(path))
        quantization, context, problem = _header(path)
        models.append(Stored(path, names, quantization, context, size, last_used(path), problem))
    return models


def _header(path: Path) -> tuple[str | None, int | None, str | None]:
    try:
        file = read_gguf(path)
    except LlamacliError as error:
        return None, None, error.fault
    context: Any = file.metadata.get(f"{file.metadata.get('general.architecture')}.context_length")
    known = type(context) is int and context > 0
    return file.quantization, context if known else None, None
