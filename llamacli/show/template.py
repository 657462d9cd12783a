"""The chat template of a model."""

from pathlib import Path

from convert import optional_json, read_chat_template
from llamacli.gguf import GGUFFile
from llamacli.show.config import Source


def find_template(source: Source) -> str | None:
    """The model's own template, as it is; None where it has none."""
    if isinstance(source, Path):
        return read_chat_template(source, optional_json(source / "tokenizer_config.json"))
    return _text(source)


def _text(file: GGUFFile) -> str | None:
    template = file.metadata.get("tokenizer.chat_template")
    if template is not None and not isinstance(template, str):
        file.fail("tokenizer.chat_template is not a text")
    return template or None
