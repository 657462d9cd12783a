"""Markdown on a terminal as it streams: a finished block is printed once, the last one redrawn."""

import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from io import StringIO
from typing import ClassVar

from markdown_it import MarkdownIt
from markdown_it.token import Token
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import CodeBlock, Heading, Markdown, MarkdownElement, TableElement
from rich.syntax import Syntax
from rich.table import Table
from rich.theme import Theme

from llamacli.engine import common_prefix
from llamacli.terminal import Write, harmless

PAUSE = 0.03  # seconds between two redraws, and at least
SHARE = 10  # times what the last one took: rendering must not slow the model down
PADDING = re.compile(r"(?:\x1b\[[\d;]*m| )+$")
THEME = Theme(
    {
        "markdown.code": "cyan",  # rich's own styles assume a black screen
        "markdown.h1": "bold underline",
        "markdown.block_quote": "italic",
        "markdown.link": "underline",
        "markdown.link_url": "dim",
    }
)


class MarkdownStream:
    """Takes an answer's text piece by piece and shows it as Markdown.

    Blocks are Markdown's top-level ones. The last one can still change, so it is redrawn as it
    grows; it is drawn a last time, and left, when the first line of another one is whole.
    """

    def __init__(
        self,
        write: Write,
        size: Callable[[], os.terminal_size] = os.get_terminal_size,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.write, self.size, self.clock = write, size, clock
        self.text = ""  # of the blocks that aren't finished
        self.begun = False  # whether a block has been left
        self.region = Region()
        self.width = 0
        self.next_draw = 0.0

    def add(self, text: str) -> None:
        """Show more text, or keep it for the next time where the last redraw was just now."""
        self.text += harmless(text)
        start = self.clock()
        if start >= self.next_draw:
            self._draw()
            now = self.clock()
            self.next_draw = now + max(PAUSE, SHARE * (now - start))

    def finish(self) -> None:
        """Show all that has come, and end its last line."""
        self._draw()
        self.write(self.region.leave())

    def restart(self) -> None:
        """Draw the last block anew, at the cursor: something else has written to the terminal."""
        self.region = Region()

    def _draw(self) -> None:
        columns, rows = self.size()
        width, rows = max((columns or 80) - 1, 8), rows or 24  # 0 where a terminal doesn't know
        sent = ""
        if width < self.width:  # how a terminal breaks the lines that are there is unknown
            sent += self.region.leave()
        self.width = width
        done = finished(self.text)
        if done:
            lines, self.text = self._lines(self.text[:done]), self.text[done:]
            if lines:  # not so where it is an empty heading, say
                sent += self.region.redraw(lines, rows) + self.region.leave()
                self.begun = True
        sent += self.region.redraw(self._lines(self.text), rows)
        if sent:
            self.write(sent)

    def _lines(self, text: str) -> list[str]:
        lines = render(text, self.width) if text.strip() else []
        return ["", *lines] if self.begun and lines else lines


@dataclass
class Region:
    """shown are the region's lines, the cursor being behind the last one.

    Each line must be narrower than the terminal. What has scrolled off the screen stays as it is.
    """

    shown: list[str] = field(default_factory=list)

    def redraw(self, lines: Sequence[str], height: int) -> str:
        """What a terminal of that many rows must be sent to show lines in shown's place."""
        if self.shown and not lines:
            lines = [""]
        before, self.shown = self.shown, list(lines)
        if before == self.shown:
            return ""
        if not before:
            return "\n".join(lines)
        top = max(0, len(before) - height)  # the first line that the cursor can reach
        first = max(top, common_prefix(before, lines))
        if first == len(before) < len(lines):
            return "\n" + "\n".join(lines[first:])
        if len(lines) <= top:  # they end above the screen: show them once more
            return _up(len(before) - 1 - top) + "\x1b[J" + "\n".join(lines)
        first = min(first, len(lines) - 1)
        shorter = "\x1b[J" if len(lines) < len(before) else "\x1b[K"
        return _up(len(before) - 1 - first) + "\x1b[K\n".join(lines[first:]) + shorter

    def leave(self) -> str:
        """What puts the cursor below the region, which is then a new, empty one there."""
        below = "\n" if self.shown else ""
        self.shown = []
        return below


def _up(rows: int) -> str:
    return f"\x1b[{rows}A\r" if rows else "\r"


def finished(text: str) -> int:
    """How many characters at the start are whole blocks, which more text can't change.

    That is all before the last block, as far as lines are whole: half a line can still become
    part of the block before it.
    """
    whole = text[: text.rfind("\n") + 1]
    starts = [t.map[0] for t in parse(whole) if t.level == 0 and t.nesting >= 0 and t.map]
    if len(starts) < 2:
        return 0
    return sum(len(line) + 1 for line in whole.split("\n")[: starts[-1]])


def render(text: str, width: int) -> list[str]:
    """A terminal's lines of at most width cells for a Markdown text."""
    console = Console(
        file=StringIO(),
        width=width,
        theme=THEME,
        force_terminal=True,
        legacy_windows=False,
        highlight=False,
    )
    with console.capture() as captured:
        console.print(_Answer(text))
    lines = [PADDING.sub(_reset, line) for line in captured.get().split("\n")]
    seen = [i for i, line in enumerate(lines) if line]
    return lines[seen[0] : seen[-1] + 1] if seen else []


def parse(text: str) -> list[Token]:
    """Markdown's tokens. HTML is text like any other, and a line end stays one."""
    parser = MarkdownIt("commonmark", {"html": False})
    parser.enable(["strikethrough", "table"]).disable("image")
    tokens = parser.parse(text)
    for token in tokens:
        for child in token.children or ():
            if child.type == "softbreak":
                child.type = "hardbreak"
    return tokens


def _reset(padding: re.Match[str]) -> str:
    return "\x1b[0m" if "\x1b" in padding.string and padding.start() else ""


class _Heading(Heading):
    LEVEL_ALIGN: ClassVar = {}  # all to the left


class _Code(CodeBlock):
    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """In the terminal's own colours, whatever its background."""
        code = str(self.text).rstrip()
        yield Syntax(code, self.lexer_name, theme="ansi_dark", word_wrap=True, padding=(0, 2))


class _Table(TableElement):
    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Without the blank lines of rich's edge: every block has one above it."""
        for table in super().__rich_console__(console, options):
            if isinstance(table, Table):
                table.show_edge = False
            yield table


class _Answer(Markdown):
    elements: ClassVar[dict[str, type[MarkdownElement]]] = {
        **Markdown.elements,
        "heading_open": _Heading,
        "fence": _Code,
        "code_block": _Code,
        "table_open": _Table,
    }

    def __init__(self, text: str) -> None:
        super().__init__("", hyperlinks=False)  # a hidden address could be anyone's
        self.parsed = parse(text)
