"""The chat templates of a model."""

from collections.abc import Mapping
from pathlib import Path

from convert import DEFAULT, TOOL_USE, optional_json, read_chat_templates
from llamacli.gguf import TEMPLATE_KEY, TOOL_TEMPLATE_KEY, GGUFFile
from llamacli.show.config import Source


def find_template(source: Source) -> str | None:
    """The model's own template, as it is; None where it has none."""
    return find_templates(source).get(DEFAULT)


def find_templates(source: Source) -> Mapping[str, str]:
    """The model's own templates: DEFAULT, and TOOL_USE where it has another one for tools."""
    if isinstance(source, Path):
        found = read_chat_templates(source, optional_json(source / "tokenizer_config.json"))
    else:
        keys = {DEFAULT: TEMPLATE_KEY, TOOL_USE: TOOL_TEMPLATE_KEY}
        found = {name: _text(source, key) for name, key in keys.items()}
    return {name: template for name, template in found.items() if template}


def _text(file: GGUFFile, key: str) -> str:
    template = file.metadata.get(key, "")
    if not isinstance(template, str):
        file.fail(f"{key} is not a text")
    return template
