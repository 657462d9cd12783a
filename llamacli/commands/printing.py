"""What commands print: text as it is, JSON, tables and panels, and a bar while something is made.

On a terminal tables, panels and bars are drawn by rich, with every text harmless before it gets
there; elsewhere tables are plain columns, and there is no bar.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from llamacli.terminal import as_json, columns, count, lively, printable, writer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from convert import Progress

Rows = Sequence[Sequence[str]]
MAX_WIDTH = 10_000  # cells, of a terminal so wide that nothing is folded


def print_text(text: str) -> None:
    writer(sys.stdout)(text)


def print_json(value: Any, out: TextIO | None = None) -> None:
    writer(out or sys.stdout)(as_json(value, indent=2) + "\n")


def print_either(as_json: bool, value: Any, text: str) -> None:
    """A value as JSON, or the same as text."""
    if as_json:
        print_json(value)
    else:
        print_text(text)


def print_table(
    head: Sequence[str],
    rows: Rows,
    aligned: str,
    out: TextIO | None = None,
    *,
    styles: Sequence[str] = (),
) -> None:
    """Rows below a head; aligned has a letter for each column, l or r.

    styles are rich's, one for each row's second cell.
    """
    out = out or sys.stdout
    if not out.isatty():
        writer(out)(columns([head, *rows], aligned))
        return
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE)
    for name, side in zip(head, aligned, strict=True):
        table.add_column(name, justify="right" if side == "r" else "left", overflow="fold")
    for number, row in enumerate(rows):
        cells = [_text(cell) for cell in row]
        if styles:
            cells[1].stylize(styles[number])
        table.add_row(*cells)
    console = _console(out)
    unfolded = console.options.update_width(MAX_WIDTH)
    if console.measure(table, options=unfolded).minimum > console.width:  # words would be broken
        writer(out)(columns([head, *rows], aligned))
    else:
        console.print(table)


def print_rows(rows: Sequence[tuple[str, str]]) -> None:
    """Labels and values; the first row is the title of a panel on a terminal."""
    if not sys.stdout.isatty():
        print_text(columns(rows, "ll"))
        return
    from rich.panel import Panel
    from rich.table import Table

    grid = Table.grid(padding=(0, 2))
    for label, value in rows[1:]:
        grid.add_row(_text(label, style="dim"), _text(value, overflow="fold"))
    title = _text(rows[0][1], style="bold")
    _console(sys.stdout).print(Panel(grid, title=title, title_align="left", expand=False))


@contextmanager
def steps_bar(unit: str = "") -> Iterator[Callable[..., None]]:
    """A bar on a terminal's stderr; gives what feeds it: (what is done, so many, of all).

    A fourth value is shown in place of these numbers; with a unit, of a million, the rate is, too.
    """
    if not lively(sys.stderr):
        yield lambda *_: None
        return
    from rich.progress import BarColumn, Progress as Bar, TextColumn, TimeRemainingColumn

    shown = (
        TextColumn("{task.description:<28}"),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[size]}"),
        TimeRemainingColumn(),
    )
    with Bar(*shown, console=_console(sys.stderr), transient=True) as bar:
        task = bar.add_task("", total=None, size="")

        def show(what: str, done: int, total: int, size: str = "") -> None:
            text = size or f"{done} of {total}"
            if unit:
                text += f" {(bar.tasks[0].speed or 0) / 1e6:.0f} {unit}/s"
            bar.update(task, description=_markup(what), completed=done, total=total, size=text)

        yield show


@contextmanager
def bytes_bar(unit: str) -> "Iterator[Callable[[Progress], None]]":
    """The same for a file that is made."""
    with steps_bar(unit) as show:

        def tell(progress: "Progress") -> None:
            size = f"{count(progress.nbytes, 'B')} of {count(progress.total_nbytes, 'B')}"
            show(progress.tensor, progress.parameters, progress.total_parameters, size)

        yield tell


def _console(out: TextIO) -> "Console":
    from rich.console import Console

    return Console(file=out, highlight=False)


def _text(text: str, **style: Any) -> "Text":
    """A text to rich, never its markup."""
    from rich.text import Text

    return Text(printable(text), **style)


def _markup(text: str) -> str:
    from rich.markup import escape

    return escape(printable(text))
