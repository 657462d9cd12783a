"""Strangers' texts and plain columns, so that a line stays a line and a terminal stays as it is."""

from collections.abc import Iterable, Sequence


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
