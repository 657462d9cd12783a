"""Measuring an importance matrix, as imatrix and convert do it."""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from llamacli.commands.printing import steps_bar
from llamacli.terminal import notice

if TYPE_CHECKING:
    from convert import ImportanceMatrix, Quantization, Report

    Write = Callable[[Path, Quantization, ImportanceMatrix | None], Report]

AUTO = "auto"  # in place of a matrix's file
CHUNKS = "chunks of 512 tokens"


def matrix_path(target: Path) -> Path:
    """Where the matrix is kept that a target was made by."""
    return target.with_name(f"{target.stem}.imatrix.gguf")


def measured(write: "Write", target: Path, force: bool) -> "ImportanceMatrix":
    """The matrix of a checkpoint, of which write makes GGUF files: by Q8_0, on the text that ships.

    The Q8_0 file lies in a hidden folder beside target as long as it is needed.
    """
    from convert import named_quantization, read_importance
    from llamacli.quality import measure_importance, write_matrix

    kept = matrix_path(target)
    with tempfile.TemporaryDirectory(prefix=".llamacli-", dir=target.parent) as folder:
        precise = Path(folder) / "q8_0.gguf"
        write(precise, named_quantization("Q8_0"), None)
        with steps_bar() as show:
            matrix = measure_importance(precise, progress=partial(show, CHUNKS))
    write_matrix(kept, [matrix], force=force)
    notice(f"importance matrix: {kept}")
    return read_importance(kept)
