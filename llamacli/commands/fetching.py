"""What the commands that fetch do alike: say what it takes, show how far it is, tell what stays."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llamacli.errors import LlamacliError
from llamacli.terminal import count, notice

if TYPE_CHECKING:
    from rich.console import Console

    from convert import Progress
    from llamacli.hub import Needs, Repo

Revision = Annotated[
    str | None,
    typer.Option(help="On the Hub: a branch, tag or commit.  [default: main]"),
]
Token = Annotated[
    str | None,
    typer.Option(help="On the Hub: an access token.  [default: $HF_TOKEN, or the stored one]"),
]


def tell_needs(repo: "Repo", needed: "Needs", target: Path) -> None:
    """What is going to be fetched, and what it takes, before it is."""
    import psutil

    where = f"{repo.id} at {repo.commit[:12]}"
    if needed.fetched:
        kept = (
            f", {count(needed.cached, 'B')} of it kept in the Hub's cache" if needed.cached else ""
        )
        files = "1 file" if needed.files == 1 else f"{needed.files} files"
        notice(f"{where}: {count(needed.fetched, 'B')} to fetch in {files}{kept}")
    elif repo.out_of_reach:
        notice(f"{where}: the copy in the Hub's cache, as the Hub itself is out of reach")
    else:
        notice(f"{where}: all of it is in the Hub's cache")
    free = shutil.disk_usage(target.parent).free
    notice(f"disk: {count(needed.target, 'B')} for {target}, where {count(free, 'B')} are free")
    memory = psutil.virtual_memory().total
    running, has = count(needed.running, "B"), count(memory, "B")
    short = "" if needed.running <= memory else ", which is too little to run it at speed"
    notice(f"memory: {running} to run it; this machine has {has}{short}")


@contextmanager
def kept_pieces(target: Path) -> Iterator[None]:
    """Where the block is cut short and has left pieces of target, its error or a line says so."""
    from convert import SourceError
    from convert.journal import partial_path

    try:
        yield
    except BaseException as error:
        if partial_path(target).exists():
            going_on = "the same command goes on from what is done"
            if isinstance(error, LlamacliError | SourceError):
                error.args = (f"{error}; {going_on}",)
            else:
                notice(f"{going_on} (kept in {partial_path(target)})")
        raise


@contextmanager
def progress_bar(console: "Console", unit: str) -> "Iterator[Callable[[Progress], None]]":
    """A progress bar on a terminal, nothing elsewhere; gives the callback that feeds it.

    unit is what the rate counts, in millions.
    """
    from rich.markup import escape
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.fields[tensor]:<28}"),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[size]}"),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("convert", total=None, tensor="", size="", rate="")
        found: list[int] = []  # what an earlier call had done

        def show(progress: "Progress") -> None:
            if not found:
                found.append(progress.parameters)
            elapsed = bar.tasks[0].elapsed or 1e-9
            bar.update(
                task,
                total=progress.total_parameters,
                completed=progress.parameters,
                tensor=escape(progress.tensor),
                size=f"{progress.nbytes / 1e9:.2f}/{progress.total_nbytes / 1e9:.2f} GB",
                rate=f"{(progress.parameters - found[0]) / elapsed / 1e6:.0f} {unit}/s",
            )

        yield show
