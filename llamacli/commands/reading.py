"""Texts that commands are given to measure on."""

from pathlib import Path

from llamacli import prompt


def read_text(path: Path) -> "prompt.Text":
    """A file's text, or stdin's for `-`. Raises NotFoundError, UsageError."""
    name = "stdin" if path == Path("-") else path.name
    return prompt.Text(name, prompt.decode(prompt.read_bytes(path), name))
