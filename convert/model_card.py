"""A checkpoint's README.md, free text by strangers, read with care."""

from itertools import takewhile
from pathlib import Path
from typing import Any

import gguf
import yaml

MAX_CARD = 1 << 18  # bytes; Meta's have 40 kB
MAX_DEPTH = 16  # PyYAML's time grows with the square of it
LISTS = {"base_model", "base_models", "base_model_sources", "dataset", "datasets"} | {
    "dataset_sources", "language", "languages", "pipeline_tag", "tags",
}  # fmt: skip


def read_model_card(folder: Path) -> dict[str, Any]:
    """The texts in README.md's YAML front matter, and the lists of texts that GGUF has keys for.

    Empty without one. Raises OSError, ValueError or yaml.YAMLError where it can't be read, is
    too large or too deep, or has aliases, by which a short YAML text can grow without end.
    """
    path = folder / "README.md"
    if not path.is_file():
        return {}
    if path.stat().st_size > MAX_CARD:
        raise ValueError(f"the model card has {path.stat().st_size} bytes")
    lines = path.read_text(encoding="utf-8").splitlines()
    front = "\n".join(takewhile(lambda line: line != "---", lines[1:]))
    _check_yaml(front.replace("\t", "  "))  # as gguf reads it
    card = gguf.Metadata.load_model_card(folder)
    return {key: value for key, value in card.items() if _is_plain(key, value)}


def _check_yaml(text: str) -> None:
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent) or depth > MAX_DEPTH:
            raise ValueError("the model card has YAML aliases, or lists too deep in each other")


def _is_plain(key: Any, value: Any) -> bool:
    texts = value if key in LISTS and isinstance(value, list) and value else [value]
    return all(isinstance(text, str) and not _has_surrogates(text) for text in texts)


def _has_surrogates(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)
