"""The one door to the terminal: strangers' text made harmless, notices, errors, plain columns.

Only this module, commands/printing (tables and progress bars, by rich) and cli (closed streams)
touch stdout and stderr.
"""

import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from llamacli.errors import told
from llamacli.system import pipe_error, wait_for_line

# C0 but tab and newline, DEL, C1: what drives a terminal. Each shows as its own picture or U+FFFD.
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")

# What JSON leaves as it is, though it drives a terminal, or ends a line for some programs.
UNESCAPED = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff]")
MAX_LINE = 1000  # characters of a notice
DEBUG = "LLAMACLI_DEBUG"  # the environment variable that --debug sets, for children too

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
    """Rows in aligned columns, two blanks between; right marks the right-aligned ones by r.

    Every cell is printable and on one line.
    """
    held = [[printable(cell) for cell in row] for row in rows]
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


def _picture(match: re.Match[str]) -> str:
    code = ord(match.group())
    return chr(0x2400 + code) if code < 0x20 else "\u2421" if code == 0x7F else "\ufffd"


def as_json(value: Any, indent: int | None = None) -> str:
    """JSON in which what drives a terminal, ends a line or isn't Unicode is escaped."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    return UNESCAPED.sub(lambda match: f"\\u{ord(match.group()):04x}", text)


def writer(out: TextIO) -> Write:
    """How text gets to out, at once: as UTF-8 to a pipe or file, harmless to a terminal.

    Half a surrogate pair, which UTF-8 hasn't, goes as `?`.
    """
    terminal = out.isatty()
    if isinstance(out, TextIOWrapper):
        if terminal:  # what its encoding lacks shows as ?
            out.reconfigure(errors="replace")
        else:
            out.reconfigure(encoding="utf-8", errors="replace", newline="\n")

    def write(text: str) -> None:
        _put(out, harmless(text) if terminal else text)

    return write


def _put(out: TextIO | BinaryIO, data: Any) -> None:
    try:
        out.write(data)
        out.flush()
    except OSError as error:
        raise pipe_error(error) from None


def send(text: str) -> None:
    """Text for a terminal's stdout as it is: sequences of ours around what is harmless already."""
    _put(sys.stdout, text)


def send_path(path: Path) -> None:
    """A file's name on stdout, a line: to other programs its very bytes."""
    if sys.stdout.isatty():
        writer(sys.stdout)(f"{printable(str(path))}\n")
    else:
        sys.stdout.flush()
        _put(sys.stdout.buffer, os.fsencode(path) + b"\n")


def say(text: str, *, dim: bool = False) -> None:
    """Lines on stderr, beside what the model says; dim where that is a terminal with colours.

    Where they can't be written, to a full disk say, the work goes on; a closed pipe ends it.
    """
    write, text = writer(sys.stderr), text.rstrip("\n")
    try:
        if dim and lively(sys.stderr) and not os.environ.get("NO_COLOR"):
            _put(sys.stderr, f"\x1b[2m{harmless(text)}\x1b[22m\n")
        else:
            write(f"{text}\n")
    except BrokenPipeError:
        raise
    except OSError:
        return


def notice(text: str) -> None:
    """One line on stderr, by the program's name."""
    say(f"llamacli: {printable(shortened(' '.join(text.split()), MAX_LINE))}")


def debugging() -> bool:
    return bool(os.environ.get(DEBUG))


def complain(error: BaseException) -> None:
    """One line on stderr for what went wrong; with --debug, where."""
    if debugging():
        import traceback

        say("".join(traceback.format_exception(error)))
    else:
        notice(told(error))


def show_status(text: str) -> None:
    """A line on a terminal's stderr in place of the last one, or none; elsewhere nothing.

    It is cut where it would be wrapped: only one line can be replaced.
    """
    if lively(sys.stderr):
        width = 0
        with suppress(OSError):
            width = os.get_terminal_size(sys.stderr.fileno()).columns
        text = printable(text)[: (width or 80) - 1]  # 0 where a terminal doesn't know
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def ask(question: str) -> bool:
    """Whether the user says yes, on a terminal."""
    return asked(f"{question} [y/N]") in ("y", "yes")


def read_typed(prompt: str) -> str:
    """A line that is typed below a prompt on the terminal. Raises EOFError for Ctrl-D alone."""
    writer(sys.stderr)(prompt)
    wait_for_line()
    return input()


def asked(question: str) -> str:
    """What the user types, in small letters."""
    reply = ""
    try:
        writer(sys.stderr)(f"{printable(question)} ")
        if sys.stdin.isatty():
            wait_for_line()
        reply = sys.stdin.readline()
    finally:
        if not reply.endswith("\n"):  # Ctrl-C and Ctrl-D leave the cursor behind the question
            say("")
    return reply.strip().lower()


def lively(stream: TextIO) -> bool:
    """Whether a line that rewrites itself may be shown there."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"
