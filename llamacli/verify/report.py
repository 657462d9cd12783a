"""All rows of a verification, and how they are told."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from convert import open_checkpoint
from llamacli.engine import Vocabulary, load_vocabulary
from llamacli.errors import InvalidModelError
from llamacli.gguf import GGUFFile, check_architecture, check_llama, read_gguf
from llamacli.verify.metadata import metadata_row, rope_row
from llamacli.verify.prediction import WINDOW, text_row, windows
from llamacli.verify.rows import Row, judged
from llamacli.verify.tensors import tensors_row
from llamacli.verify.tokenization import tokenization_row
from llamacli.verify.vocabulary import merges_row, special_tokens_row, template_row, tokens_row

# What is being done, how much of it is, how much there is.
StepCallback = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Report:
    path: Path
    checkpoint: Path
    rows: tuple[Row, ...]

    @property
    def failed(self) -> tuple[str, ...]:
        """The names of the rows that failed; none where the file is a faithful copy."""
        return tuple(row.name for row in self.rows if row.verdict == "failed")


def verify(
    path: Path,
    folder: Path,
    *,
    text: str | None = None,
    reference: Path | None = None,
    threads: int | None = None,
    progress: StepCallback = lambda *_: None,
    **machine: Any,
) -> Report:
    """Compare a GGUF file with a checkpoint's folder.

    With a text it is also run, next to reference, a GGUF file of higher precision, or else next
    to a temporary conversion of the checkpoint, where EngineSettings' fields in machine say.
    Raises NotFoundError, InvalidModelError where path is no GGUF file of a Llama model,
    CheckpointError, and UsageError for a text too short.
    """
    file = read_gguf(path)
    check_architecture(file)
    checkpoint = open_checkpoint(folder)

    @cache
    def vocabulary() -> Vocabulary:
        return load_vocabulary(path)

    rows: dict[str, Callable[[], Row]] = {
        "file": lambda: _file_row(file),
        "metadata": lambda: metadata_row(file, checkpoint),
        "rope": lambda: rope_row(file, checkpoint),
        "vocabulary": lambda: tokens_row(file, checkpoint),
        "merges": lambda: merges_row(file, checkpoint),
        "special tokens": lambda: special_tokens_row(file, checkpoint, vocabulary()),
        "tokenization": lambda: tokenization_row(checkpoint, vocabulary()),
        "template": lambda: template_row(file, checkpoint),
        "tensors": lambda: tensors_row(
            file, checkpoint, threads=threads, progress=partial(progress, "comparing tensors")
        ),
    }
    if text is not None:
        with suppress(InvalidModelError):  # the rows tell of that
            windows(vocabulary(), text, WINDOW)  # too short, it is told before all is compared
        rows["text"] = partial(
            text_row,
            file,
            checkpoint,
            text,
            reference=reference,
            threads=threads,
            progress=partial(progress, "evaluating the text"),
            **machine,
        )
    return Report(path, folder, tuple(_row(name, make) for name, make in rows.items()))


def as_json(report: Report) -> dict[str, Any]:
    """The report as an object; faithful is true where no row failed."""
    return {
        "file": str(report.path),
        "against": str(report.checkpoint),
        "faithful": not report.failed,
        "rows": [
            {
                "name": row.name,
                "verdict": row.verdict,
                "summary": row.summary,
                "problems": row.problems,
                **row.measures,
            }
            for row in report.rows
        ],
    }


def _row(name: str, make: Callable[[], Row]) -> Row:
    """The row, failed where the file is too broken for a comparison."""
    try:
        return make()
    except InvalidModelError as error:
        return judged(name, [str(error)], "")


def _file_row(file: GGUFFile) -> Row:
    """Whether llama.cpp can run it: what is checked before every loading."""
    shape = check_llama(file)
    what = f"GGUF version {file.version}, layers: {shape.blocks}, width: {shape.embedding}"
    return Row("file", "passed", what)
