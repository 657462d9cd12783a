"""An importance matrix of a model, measured on texts as llama-imatrix does, or on those that ship.

What is done is kept beside the target now and then, under a name that says what it is of, so that
a call that was cut short can be gone on with.
"""

import glob
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import Any

import convert
from convert import Checkpoint
from llamacli.engine import Vocabulary
from llamacli.errors import LlamacliError, UsageError
from llamacli.gguf import TEMPLATE_KEY, check_llama, read_gguf
from llamacli.machine import load_library
from llamacli.prompt import Text, encode_chat, encode_raw
from llamacli.quality.activations import Activations
from llamacli.show import vocabulary_of
from llamacli.verify import DATE, WINDOW, open_evaluator

CALIBRATION, DIALOGUES = "calibration.txt", "dialogues.json"
DIALOGUE, SAMPLE = 128, 256  # tokens
STEP = 128  # tokens evaluated at once; room for their logits takes 66 MB with Meta's vocabulary
KEEP_EVERY = 10.0  # seconds

Progress = Callable[[int, int], None]  # chunks done so far, and all


def calibration(vocabulary: Vocabulary, template: str | None) -> Iterator[tuple[str, list[int]]]:
    """Their names and tokens; the same every day, whatever a template tells of it."""
    folder = files(__package__)
    tokens: list[int] = []
    for messages in json.loads(folder.joinpath(DIALOGUES).read_text("utf-8")):
        with suppress(LlamacliError):  # a template may refuse what it doesn't foresee
            tokens += encode_chat(vocabulary, template, messages, date=DATE)
    yield DIALOGUES, tokens
    text = folder.joinpath(CALIBRATION).read_text("utf-8")
    yield CALIBRATION, vocabulary.tokenize(text, bos=vocabulary.add_bos)


def sample_tokens(checkpoint: Checkpoint) -> list[int]:
    """A part of a dialogue and of the text, SAMPLE tokens, by a checkpoint's own vocabulary.

    Raises InvalidModelError where llama.cpp can't read that.
    """
    vocabulary = vocabulary_of(checkpoint)
    (_, dialogues), (_, text) = calibration(vocabulary, checkpoint.chat_template)
    start = dialogues[:DIALOGUE] or encode_raw(vocabulary, "")
    return [*start, *text[vocabulary.add_bos :]][:SAMPLE]


def measure_importance(
    path: Path,
    texts: Sequence[Text] | None = None,
    *,
    chunks: int | None = None,
    threads: int | None = None,
    target: Path | None = None,
    progress: Progress = lambda *_: None,
    notice: Callable[[str], None] = lambda _: None,
    **machine: Any,
) -> convert.ImportanceMatrix:
    """The matrix of a GGUF model over chunks of texts, WINDOW tokens each, at most so many.

    Without texts it is measured on those that ship: dialogues, prose, code, numbers. Where target
    is named, what a call that was cut short has measured for it is gone on with. machine is
    open_evaluator's. Raises UsageError for a text that is shorter than a chunk, and what Engine
    raises.
    """
    shape = check_llama(read_gguf(path))
    size, activations = min(WINDOW, shape.context), Activations(shape.blocks)
    observer = activations.observer(load_library())
    with open_evaluator(path, size, threads, step=STEP, observer=observer, **machine) as engine:
        if texts is None:
            template = engine.file.metadata.get(TEMPLATE_KEY) or None
            sources = list(calibration(engine.vocabulary, template))
        else:
            bos = engine.vocabulary.add_bos
            sources = [(one.name, engine.vocabulary.tokenize(one.text, bos=bos)) for one in texts]
        parts = list(_chunks(engine.vocabulary, sources, size))[:chunks]
        names = [name for name, _ in sources]
        kept = None if target is None else _kept_path(target, engine.identity, parts)
        done = 0 if kept is None else _take_kept(kept, activations)
        if done:
            notice(f"going on after chunk {done}, from what the last call has done")
        saved = time.monotonic()
        for number, part in enumerate(parts[done:], done + 1):
            progress(number - 1, len(parts))
            activations.evaluate(engine, part)
            if kept is not None and time.monotonic() - saved >= KEEP_EVERY:
                matrix = activations.matrix(names, number, size)
                convert.write_importance(kept, matrix, force=True)
                saved = time.monotonic()
        progress(len(parts), len(parts))
        return activations.matrix(names, len(parts), size)


def write_matrix(
    target: Path, measured: Sequence[convert.ImportanceMatrix], *, force: bool = False
) -> None:
    """Write the sum of some matrices, and drop what was kept for it.

    Raises ImportanceError where they are of different models, TargetError.
    """
    convert.write_importance(target, convert.merged_importances(measured), force=force)
    for path in target.parent.glob(f".{glob.escape(target.name)}.*.kept"):
        with suppress(OSError):
            path.unlink()


def _chunks(
    vocabulary: Vocabulary, sources: Sequence[tuple[str, list[int]]], size: int
) -> Iterator[list[int]]:
    """llama-imatrix's: a text's tokens cut at each size, the first one of each chunk made BOS."""
    bos = vocabulary.bos if vocabulary.add_bos else None
    for name, tokens in sources:
        if len(tokens) < size:
            raise UsageError(
                f"{name} has {len(tokens)} tokens; a chunk has {size}, and one is the least"
            )
        for start in range(0, len(tokens) - size + 1, size):
            part = tokens[start : start + size]
            yield part if bos is None else [bos, *part[1:]]


def _kept_path(target: Path, identity: Sequence[int | str], parts: Sequence[Sequence[int]]) -> Path:
    """Where what was measured so far is kept, of this model and these chunks."""
    digest = hashlib.sha256(json.dumps([identity, parts]).encode()).hexdigest()[:16]
    return target.with_name(f".{target.name}.{digest}.kept")


def _take_kept(path: Path, activations: Activations) -> int:
    """How many chunks were kept; what can't be read counts as none."""
    try:
        matrix = convert.read_importance(path)
    except convert.ConvertError:
        return 0
    activations.take(matrix)
    return matrix.chunks
