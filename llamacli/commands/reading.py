"""Texts that commands are given to measure on."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llamacli.prompt import Text


def read_text(path: Path) -> "Text":
    """A file's text, or stdin's for `-`. Raises NotFoundError, UsageError."""
    from llamacli.prompt import Text, decode, read_bytes

    name = "stdin" if path == Path("-") else path.name
    return Text(name, decode(read_bytes(path), name))
