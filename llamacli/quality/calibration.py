"""The texts that ship, which a model is measured on: dialogues by its own template, and others."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from importlib.resources import files
from pathlib import Path

from convert import Checkpoint, named_quantization, write_header
from llamacli.engine import Vocabulary, load_vocabulary
from llamacli.errors import LlamacliError
from llamacli.prompt import encode_chat, encode_raw

CALIBRATION, DIALOGUES = "calibration.txt", "dialogues.json"
DATE = datetime(2024, 7, 26)  # for templates that tell it: the same tokens every day
DIALOGUE, SAMPLE = 128, 256  # tokens


def calibration(
    vocabulary: Vocabulary, template: str | None, date: datetime | None = None
) -> Iterator[tuple[str, list[int]]]:
    """Their names and tokens."""
    folder = files(__package__)
    tokens: list[int] = []
    for messages in json.loads(folder.joinpath(DIALOGUES).read_text("utf-8")):
        with suppress(LlamacliError):  # a template may refuse what it doesn't foresee
            tokens += encode_chat(vocabulary, template, messages, date=date)
    yield DIALOGUES, tokens
    text = folder.joinpath(CALIBRATION).read_text("utf-8")
    yield CALIBRATION, vocabulary.tokenize(text, bos=vocabulary.add_bos)


def sample_tokens(checkpoint: Checkpoint) -> list[int]:
    """A part of a dialogue and of the text, SAMPLE tokens, by a checkpoint's own vocabulary.

    Raises InvalidModelError where llama.cpp can't read that.
    """
    with tempfile.TemporaryDirectory(prefix="llamacli-") as folder:
        path = Path(folder) / "vocabulary.gguf"
        write_header(path, checkpoint, named_quantization("F16"), ())
        vocabulary = load_vocabulary(path)
        (_, dialogues), (_, text) = calibration(vocabulary, checkpoint.chat_template, DATE)
    start = dialogues[:DIALOGUE] or encode_raw(vocabulary, "")
    return [*start, *text[vocabulary.add_bos :]][:SAMPLE]
