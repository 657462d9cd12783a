"""What goes to a terminal: strangers' text made harmless, notices, plain columns."""

import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from io import TextIOWrapper
from typing import TextIO

# C0 but tab and newline, DEL, C1: what drives a terminal. Each shows as its own picture or U+FFFD.
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")

Write = Callable[[str], None]


def printable(text: str) -> str:
    """Text with Python's escapes for what isn't visible: controls, line ends, text direction."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def quoted(piece: bytes) -> str:
    """Bytes as text in double quotes, with escapes for what isn't visible or isn't UTF-8."""
    text = piece.decode(errors="surrogateescape").replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(map(_escaped, text)) + '"'


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # a byte that isn't UTF-8, as surrogateescape keeps it
        return f"\\x{ord(character) - 0xDC00:02x}"
    return printable(character)


def shortened(text: str, most: int = 100) -> str:
    """At most that many characters of text, and how many it has where that is more."""
    return text if len(text) <= most else f"{text[:most]}… ({len(text)} characters)"


def columns(rows: Iterable[Sequence[str]], right: str) -> str:
    """Rows in aligned columns, two blanks between; right marks the right-aligned ones by r."""
    held = list(rows)
    widths = [max(map(len, column)) for column in zip(*held, strict=True)]

    def line(row: Sequence[str]) -> str:
        cells = zip(row, widths, right, strict=True)
        return "  ".join(c.rjust(w) if side == "r" else c.ljust(w) for c, w, side in cells)

    return "\n".join(line(row).rstrip() for row in held) + "\n"


def count(number: float, unit: str = "") -> str:
    """A number with a decimal prefix, as 8.03 G."""
    for prefix, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.2f} {prefix}{unit}"
    return f"{number:g} {unit}".rstrip()


def harmless(text: str) -> str:
    """Text in which nothing can move a terminal's cursor, recolour it or set its title."""
    return CONTROLS.sub(_picture, text)


def _picture(found: re.Match[str]) -> str:
    code = ord(found.group())
    return chr(0x2400 + code) if code < 0x20 else "\u2421" if code == 0x7F else "\ufffd"


def writer(out: TextIO) -> Write:
    """How text gets to out, at once: as UTF-8 to a pipe or file, harmless to a terminal."""
    terminal = out.isatty()
    if not terminal and isinstance(out, TextIOWrapper):
        out.reconfigure(encoding="utf-8", newline="\n")

    def write(text: str) -> None:
        out.write(harmless(text) if terminal else text)
        out.flush()

    return write


def notice(text: str) -> None:
    """One line on stderr."""
    print(f"llamacli: {text}", file=sys.stderr)


def lively(stream: TextIO) -> bool:
    """Whether a line that rewrites itself may be shown there."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"
