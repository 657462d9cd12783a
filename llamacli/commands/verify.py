"""llamacli verify: is a GGUF file a faithful copy of a checkpoint?"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from llamacli import prompt
from llamacli.commands import groups, options
from llamacli.commands.printing import print_json, print_table, steps_bar
from llamacli.errors import InvalidModelError, NotFoundError, UsageError
from llamacli.home import expanded
from llamacli.models import model_path
from llamacli.terminal import columns, printable, shortened, writer

if TYPE_CHECKING:
    from llamacli.verify import Report

SHOWN = 8  # differences of a row; --json has them all
HEAD = ("part", "verdict", "what was found")
STYLES = {"passed": "green", "failed": "bold red", "skipped": "yellow"}


def verify(
    *,
    model: Annotated[
        str, typer.Argument, options.complete_models, "A GGUF file, a name in the store, or `demo`."
    ],
    against: Annotated[Path, "The checkpoint's folder that it should be a copy of."],
    text: Annotated[Path | None, "Compare how both predict this text, too; - is stdin."] = None,
    reference: Annotated[
        str | None,
        options.complete_models,
        "With --text: a GGUF file of higher precision.  [default: the checkpoint itself]",
    ] = None,
    threads: options.Threads = None,
    together: groups.Together,
    as_json: options.AsJson = False,
) -> None:
    """Compare a GGUF file with the checkpoint that it is from: metadata, vocabulary, weights.

    A line a part, with a verdict; exit code 3 where one failed.
    """
    if reference is not None and text is None:
        raise UsageError("--reference goes with --text")
    against = expanded(against)
    if not against.exists():
        raise NotFoundError(f"there is no folder {against}")
    path = model_path(model)
    other = None if reference is None else model_path(reference)
    machine = together.settings()
    check_copy(
        path,
        against,
        sys.stdout,
        text=None if text is None else prompt.read_file(text).text,
        reference=other,
        threads=threads,
        as_json=as_json,
        **machine,
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
    **machine: Any,
) -> None:
    """Compare and write the rows to out. Raises InvalidModelError where one failed.

    The file is left as it is. machine are EngineSettings' fields for evaluating a text.
    """
    from llamacli.verify import report

    with steps_bar() as show:
        result = report.verify(
            path,
            folder,
            text=text,
            reference=reference,
            threads=threads,
            progress=show,
            **machine,
        )
    if as_json:
        print_json(report.as_json(result), out)
    else:
        _print(result, out)
    if result.failed:
        names = ", ".join(result.failed)
        raise InvalidModelError(
            f"{path}, which is left as it is, is not a faithful copy of {folder}: {names}"
        )


def _print(report: "Report", out: TextIO) -> None:
    """A row a part, then the differences; on a terminal, below a head and in colours."""
    rows = [(row.name, row.verdict, row.summary) for row in report.rows]
    if out.isatty():
        styles = [STYLES[row.verdict] for row in report.rows]
        print_table(HEAD, rows, "lll", out, styles=styles)
    else:
        writer(out)(columns(rows, "lll"))
    writer(out)("".join(f"{line}\n" for line in _problems(report)))


def _problems(report: "Report") -> Iterator[str]:
    """The differences, a line each; long lists are cut."""
    for row in report.rows:
        for problem in row.problems[:SHOWN]:
            yield f"{row.name}: {shortened(printable(problem), 300)}"
        if more := len(row.problems[SHOWN:]):
            yield f"{row.name}: {more} more (--json lists all)"
