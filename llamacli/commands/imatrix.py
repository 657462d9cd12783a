"""llamacli imatrix: measure which columns of a model's weights matter, for quantizing by it.

And how convert measures it, and the texts that this is done on.
"""

import glob
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import convert
from llamacli import prompt
from llamacli.commands import groups, options
from llamacli.commands.printing import steps_bar
from llamacli.errors import NotFoundError, UsageError, writing
from llamacli.home import expanded
from llamacli.models import model_path
from llamacli.terminal import notice, say, send_path

if TYPE_CHECKING:
    Write = Callable[[Path, convert.Quantization, convert.ImportanceMatrix | None], convert.Report]


AUTO = "auto"  # in place of a matrix's file
CHUNKS = "chunks of 512 tokens"
HIDDEN, LOCK = ".measuring", "lock"  # what a hidden folder's name ends with, and its file


def read_matrix(given: Path | str) -> "convert.ImportanceMatrix":
    """The matrix of a file that was named. Raises NotFoundError, ImportanceError."""
    path = expanded(given)
    if not path.exists():
        raise NotFoundError(f"there is no file {path}")
    return convert.read_importance(path)


def check_of_model(matrix: "convert.ImportanceMatrix", model: Path) -> None:
    """Raises ImportanceError where it isn't of the model in that GGUF file."""
    from llamacli.gguf import read_gguf

    tensors = read_gguf(model).tensors
    convert.importances_for(
        matrix, [convert.TensorSpec(one.name, one.name, one.shape[::-1]) for one in tensors]
    )


def matrix_path(target: Path) -> Path:
    """Where the matrix is kept that a target was made by."""
    return target.with_name(f"{target.stem}.imatrix.gguf")


def measured(write: "Write", target: Path, force: bool) -> "convert.ImportanceMatrix":
    """The matrix of a checkpoint, of which write makes GGUF files: by Q8_0, on the text that ships.

    The Q8_0 file lies in a hidden folder beside target as long as it is needed.
    """
    from llamacli.quality import measure_importance, write_matrix

    kept = matrix_path(target)
    with hidden_folder(target) as folder:
        precise = folder / "q8_0.gguf"
        write(precise, convert.named_quantization("Q8_0"), None)
        with steps_bar() as show:
            matrix = measure_importance(precise, progress=partial(show, CHUNKS))
    write_matrix(kept, [matrix], force=force)
    notice(f"importance matrix: {kept}")
    return convert.read_importance(kept)


def clear_hidden(target: Path) -> None:
    """Remove such folders as a killed call has left."""
    for left in target.parent.glob(f".{glob.escape(target.name)}.*{HIDDEN}"):
        with suppress(OSError):  # another call has it locked, or it can't be removed
            with (left / LOCK).open("r+b") as file:
                convert.lock(file.fileno())
            shutil.rmtree(left)


@contextmanager
def hidden_folder(target: Path) -> Iterator[Path]:
    """A folder beside target as long as it is needed."""
    with (
        tempfile.TemporaryDirectory(
            prefix=f".{target.name}.", suffix=HIDDEN, dir=target.parent
        ) as folder,
        (Path(folder) / LOCK).open("wb") as file,
    ):
        convert.lock(file.fileno())
        yield Path(folder)


def tell_gain(
    checkpoint: "convert.Checkpoint",
    report: "convert.Report",
    matrix: "convert.ImportanceMatrix",
    searched: bool,
    threads: int | None,
) -> None:
    """Say what a file's matrix gained it; searched is that of the file's Quantization."""
    with steps_bar() as show:
        found = convert.gain(
            checkpoint,
            report.tensors,
            matrix,
            searched=searched,
            threads=threads,
            progress=lambda name, done, total: show(f"comparing {name}", done, total),
        )
    parts = []
    if found.matrices:
        parts.append(
            f"errors weighed by it are {found.ratio:.2f} of those without it, squared, "
            f"in the mean of {found.matrices} matrices"
        )
    if found.unfit:
        parts.append(f"{found.unfit} matrices have types that can't be made without it")
    say(f"importance matrix: {'; '.join(parts) or 'no type here is made by it'}")


def _read(path: Path) -> "prompt.Text":
    """A text by its file's name alone, which the matrix has."""
    name = "stdin" if path == Path("-") else convert.name_of(path)
    return prompt.Text(name, prompt.read_file(path).text)


def imatrix(
    *,
    model: options.ModelArgument = None,
    text: Annotated[
        list[Path] | None,
        "A text to measure on; - is stdin; may be given again.  [default: one that ships]",
    ] = None,
    chunks: Annotated[
        int | None,
        (0, None),
        "Measure on that many chunks of 512 tokens; 0 only adds.  [default: all of it]",
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
        texts = [*map(_read, text or ())]
        with steps_bar() as show:
            measured = [
                measure_importance(
                    path,
                    texts or None,
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
