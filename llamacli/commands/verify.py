"""llamacli verify: is a GGUF file a faithful copy of a checkpoint?"""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from llamacli.commands import options
from llamacli.commands.reading import read_text
from llamacli.errors import InvalidModelError, NotFoundError, UsageError
from llamacli.models import model_path
from llamacli.terminal import lively

if TYPE_CHECKING:
    from llamacli.verify import Report

SHOWN = 8  # differences of a row; --json has them all
STYLES = {"passed": "green", "failed": "bold red", "skipped": "yellow"}


def verify(
    model: Annotated[
        str,
        typer.Argument(
            autocompletion=options.complete_models,
            help="A GGUF file, a name in the store, or `demo`.",
        ),
    ],
    against: Annotated[
        Path, typer.Option(help="The checkpoint's folder that it should be a copy of.")
    ],
    text: Annotated[
        Path | None,
        typer.Option(help="Compare how both predict this text, too; - is stdin."),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            autocompletion=options.complete_models,
            help="With --text: a GGUF file of higher precision.  [default: the checkpoint itself]",
        ),
    ] = None,
    threads: options.Threads = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Compare a GGUF file with the checkpoint that it is from: metadata, vocabulary, weights.

    A line a part, with a verdict; exit code 3 where one failed.
    """
    if reference is not None and text is None:
        raise UsageError("--reference goes with --text")
    if not against.expanduser().is_dir():
        raise NotFoundError(f"there is no folder {against}")
    check_copy(
        model_path(model),
        against.expanduser(),
        sys.stdout,
        text=None if text is None else read_text(text).text,
        reference=None if reference is None else model_path(reference),
        threads=threads,
        as_json=as_json,
    )


def check_copy(
    path: Path,
    folder: Path,
    out: TextIO,
    *,
    text: str | None = None,
    reference: Path | None = None,
    threads: int | None = None,
    as_json: bool = False,
) -> None:
    """Compare and write the rows to out. Raises InvalidModelError where one failed.

    The file is left as it is.
    """
    from llamacli.terminal import writer
    from llamacli.verify import report

    with _progress() as show:
        found = report.verify(
            path,
            folder,
            text=text,
            reference=reference,
            threads=threads,
            progress=show,
        )
    if as_json:
        answer = json.dumps(report.as_json(found), indent=2, ensure_ascii=False)
        writer(out)(answer + "\n")
    elif out.isatty():
        _print_table(found, out)
    else:
        writer(out)(_plain(found))
    if found.failed:
        names = ", ".join(found.failed)
        raise InvalidModelError(
            f"{path}, which is left as it is, is not a faithful copy of {folder}: {names}"
        )


def _plain(report: "Report") -> str:
    from llamacli.terminal import columns, printable

    rows = [(row.name, row.verdict, printable(row.summary)) for row in report.rows]
    return columns(rows, "lll") + "".join(f"{line}\n" for line in _problems(report))


def _problems(report: "Report") -> Iterator[str]:
    """The differences, a line each; long lists are cut."""
    from llamacli.terminal import printable, shortened

    for row in report.rows:
        for problem in row.problems[:SHOWN]:
            yield f"{row.name}: {shortened(printable(problem), 300)}"
        if more := len(row.problems[SHOWN:]):
            yield f"{row.name}: {more} more (--json lists all)"


def _print_table(report: "Report", out: TextIO) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from llamacli.terminal import printable

    table = Table()
    for column in ("part", "verdict", "what was found"):
        table.add_column(column)
    for row in report.rows:
        verdict = Text(row.verdict, style=STYLES[row.verdict])
        table.add_row(row.name, verdict, Text(printable(row.summary)))
    console = Console(file=out)
    console.print(table)
    for line in _problems(report):
        console.print(Text(line))


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar on a terminal, nothing elsewhere; gives the callback that feeds it."""
    if not lively(sys.stderr):
        yield lambda *_: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)

        def show(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)

        yield show
