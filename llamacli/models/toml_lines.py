"""Where things stand in a TOML text, which tomllib doesn't tell of what it has read."""

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

DEPTH = 4  # keys of a place
MOST = 200  # lines that one value is looked for in
PATIENCE = 5_000  # texts that are tried in all


def line_of(text: str, place: Sequence[str]) -> int:
    """The line, from 1, where the table or key at that place starts, in a text that is TOML.

    A place that isn't found gives that of the table around it, at last line 1.
    """
    found: dict[tuple[str, ...], int] = {(): 1}
    for path, line in _statements(text):
        found.setdefault(path, line)
    wanted = tuple(place)
    return next(found[wanted[:end]] for end in range(len(wanted), -1, -1) if wanted[:end] in found)


def _statements(text: str) -> Iterator[tuple[tuple[str, ...], int]]:
    """Every table and key by its whole path, with its line: a statement is what parses alone."""
    lines = text.split("\n")
    table: tuple[str, ...] = ()
    start = tried = 0
    while start < len(lines) and tried < PATIENCE:
        for end in range(start + 1, min(start + MOST, len(lines)) + 1):
            tried += 1
            try:
                value = tomllib.loads("\n".join(lines[start:end]))
                break
            except (ValueError, RecursionError):
                continue
        else:
            end, value = start + 1, {}
        header = lines[start].lstrip().startswith("[")
        paths = list(_paths(value))
        if header and paths:
            table = paths[-1]
        yield from ((path if header else table + path, start + 1) for path in paths)
        start = end


def _paths(value: Mapping[str, Any], depth: int = DEPTH) -> Iterator[tuple[str, ...]]:
    for key, inner in value.items():
        yield (key,)
        if isinstance(inner, list) and inner and isinstance(inner[0], dict):
            inner = inner[0]
        if isinstance(inner, dict) and depth > 1:
            yield from ((key, *path) for path in _paths(inner, depth - 1))
