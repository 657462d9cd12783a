"""What is in the store, a row a file: read from each file's header, no weights."""

from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from llamacli.errors import LlamacliError
from llamacli.gguf import base_name, read_gguf
from llamacli.models.names import short_names
from llamacli.models.store import last_used, stored_adapters, stored_models


@dataclass(frozen=True)
class Stored:
    """A file of the store; last_used is None where it never was.

    adapter_of is the name of the base where it is a LoRA adapter, "" where that doesn't tell. Where
    the file can't be read, problem says why, and quantization and context are None.
    """

    path: Path
    short_names: tuple[str, ...]
    quantization: str | None
    context: int | None
    bytes: int
    last_used: datetime | None
    problem: str | None = None
    adapter_of: str | None = None


def inventory() -> list[Stored]:
    """Every model by name, then every adapter; those that vanish meanwhile are left out."""
    models = []
    for path in stored_models():
        with suppress(OSError):
            names, size = tuple(short_names(path)), path.stat().st_size
            models.append(_read(Stored(path, names, None, None, size, last_used(path))))
    for path in stored_adapters():
        with suppress(OSError):
            models.append(
                _read(Stored(path, (), None, None, path.stat().st_size, None, adapter_of=""))
            )
    return models


def _read(stored: Stored) -> Stored:
    """With what the file's header tells."""
    try:
        file = read_gguf(stored.path)
    except LlamacliError as error:
        return replace(stored, problem=error.fault)
    if stored.adapter_of is not None:
        return replace(stored, quantization=file.quantization, adapter_of=base_name(file) or "")
    context: Any = file.metadata.get(f"{file.metadata.get('general.architecture')}.context_length")
    known = type(context) is int and context > 0
    return replace(stored, quantization=file.quantization, context=context if known else None)
