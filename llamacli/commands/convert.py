"""llamacli convert: a checkpoint becomes a GGUF file."""

import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llamacli.commands.session import notice
from llamacli.commands.verify import check_copy
from llamacli.errors import NotFoundError, UsageError
from llamacli.store import target_path

if TYPE_CHECKING:
    from rich.console import Console

    from convert import Progress, Report

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def convert(
    source: Annotated[str, typer.Argument(help="A folder with a Hugging Face checkpoint.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The file to write; without it, one in the store."),
    ] = None,
    q4: Annotated[bool, typer.Option("--q4", help="Short for --quant Q4_K_M.")] = False,
    q8: Annotated[bool, typer.Option("--q8", help="Short for --quant Q8_0.")] = False,
    quant: Annotated[
        str | None,
        typer.Option(
            help="Q4_K_M, Q4_K_S, Q5_K_M, Q6_K, Q8_0, BF16, F16 or F32.  [default: Q4_K_M]",
        ),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads that quantize.  [default: all cores]")
    ] = None,
    force: Annotated[bool, typer.Option(help="Replace the file where it exists.")] = False,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Compare the file with the checkpoint; see llamacli verify."),
    ] = False,
) -> None:
    """Convert a Hugging Face Llama checkpoint to a GGUF file and print its path."""
    from rich.console import Console

    from convert import convert as convert_checkpoint
    from convert.quantization import quantization

    chosen = quantization(_quantization_name(q4, q8, quant)).name
    folder = _folder(source)
    target = output or target_path(folder.resolve().name, chosen)
    console = Console(stderr=True)
    with _progress(console) as show:
        report = convert_checkpoint(
            folder,
            target,
            chosen,
            threads=threads,
            progress=show,
            notice=notice,
            force=force,
        )
    _print_report(console, report)
    if verify:
        check_copy(report.path, folder, sys.stderr, threads=threads)
    typer.echo(report.path)


def _quantization_name(q4: bool, q8: bool, quant: str | None) -> str:
    named = [name for name, on in (("Q4_K_M", q4), ("Q8_0", q8)) if on]
    named += [quant] if quant is not None else []
    if len(named) > 1:
        raise UsageError("give one of --q4, --q8 and --quant")
    return named[0] if named else "Q4_K_M"


def _folder(source: str) -> Path:
    folder = Path(source).expanduser()
    if folder.exists():
        return folder
    if HUB_ID.fullmatch(source) and not source.startswith("."):
        raise UsageError(
            f"{source} looks like a Hub id, and llamacli reads folders so far; fetch it first: "
            f"hf download {source} --local-dir {folder.name}"
        )
    raise NotFoundError(f"there is no folder {source}")


@contextmanager
def _progress(console: "Console") -> Iterator[Callable[["Progress"], None]]:
    """A progress bar on a terminal, nothing elsewhere; gives the callback that feeds it."""
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

        def show(progress: "Progress") -> None:
            elapsed = bar.tasks[0].elapsed or 1e-9
            bar.update(
                task,
                total=progress.total_parameters,
                completed=progress.parameters,
                tensor=progress.tensor,
                size=f"{progress.nbytes / 1e9:.2f}/{progress.total_nbytes / 1e9:.2f} GB",
                rate=f"{progress.parameters / elapsed / 1e6:.0f} M params/s",
            )

        yield show


def _print_report(console: "Console", report: "Report") -> None:
    from rich.table import Table

    parameters = sum(tensor.spec.parameters for tensor in report.tensors)
    table = Table(title=f"{report.path.name}: {_count(parameters)} parameters")
    for column in ("type", "tensors", "parameters", "size"):
        table.add_column(column, justify="left" if column == "type" else "right")
    counts, sizes, values = Counter[str](), Counter[str](), Counter[str]()
    for tensor in report.tensors:
        counts[tensor.type.name] += 1
        sizes[tensor.type.name] += tensor.nbytes
        values[tensor.type.name] += tensor.spec.parameters
    for name, size in sizes.most_common():
        table.add_row(name, str(counts[name]), _count(values[name]), f"{_count(size)}B")
    data = sum(sizes.values())
    console.print(table)
    console.print(
        f"{data * 8 / parameters:.2f} bits per weight, {_count(report.source_nbytes)}B → "
        f"{_count(report.target_nbytes)}B in {report.seconds:.1f} s",
        highlight=False,
    )


def _count(number: int) -> str:
    """A number with a decimal prefix, as 7.35 M."""
    for prefix, unit in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= unit:
            return f"{number / unit:.2f} {prefix}"
    return f"{number} "
