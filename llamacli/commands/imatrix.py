"""llamacli imatrix: measure which columns of a model's weights matter, for quantizing by it."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from llamacli.commands import groups, options
from llamacli.commands.measuring import CHUNKS, check_of_model, read_matrix, read_text
from llamacli.commands.printing import steps_bar
from llamacli.errors import UsageError, writing
from llamacli.models import model_path
from llamacli.terminal import notice, send_path


def imatrix(
    *,
    model: options.ModelArgument = None,
    text: Annotated[
        list[Path] | None,
        "A text to measure on; - is stdin; may be given again.  [default: one that ships]",
    ] = None,
    chunks: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Measure on that many chunks of 512 tokens; 0 only adds.  [default: all of it]",
        ),
    ] = None,
    add: Annotated[
        list[Path] | None, "Add what a matrix of this model has; may be given again."
    ] = None,
    output: Annotated[
        Path | None, "-o", "The file to write.  [default: the model's name.imatrix.gguf]"
    ] = None,
    force: options.Force = False,
    threads: options.Threads = None,
    device: options.Device = None,
    together: groups.Together,
    quiet: options.Quiet = False,
) -> None:
    """Measure an importance matrix of a model and print its file's path.

    `convert --imatrix` quantizes by it. What was cut short goes on from there.
    """
    from convert import check_target
    from llamacli.quality import measure_importance, write_matrix

    path = model_path(model, quiet=quiet)
    target = output or Path(f"{path.stem}.imatrix.gguf")
    with writing(target):
        check_target(target, force)
    earlier = [read_matrix(one) for one in add or ()]
    for one in earlier:
        check_of_model(one, path)
    measured, machine = [], together.settings(device)
    if chunks != 0:
        texts = [read_text(one) for one in text] if text else None
        with steps_bar() as show:
            measured = [
                measure_importance(
                    path,
                    texts,
                    chunks=chunks,
                    threads=threads,
                    target=target,
                    progress=partial(show, CHUNKS),
                    notice=(lambda _: None) if quiet else notice,
                    **machine,
                )
            ]
    elif not earlier:
        raise UsageError("--chunks 0 measures nothing; name matrices to add with --add")
    write_matrix(target, [*measured, *earlier], force=force)
    send_path(target)
