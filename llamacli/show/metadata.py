"""Keys and values of a GGUF file's metadata, or of a checkpoint's small files; chat templates."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from convert import DEFAULT, TOOL_USE, optional_json, read_chat_templates, read_config, read_json
from llamacli.gguf import STRING, TEMPLATE_KEY, TOOL_TEMPLATE_KEY, Array, GGUFFile
from llamacli.show.config import Source
from llamacli.terminal import columns, shortened

WHOLE = 32  # values; longer arrays are told by their length and their first ones
FIRST = 3
SMALL_FILES = ("config.json", "generation_config.json", "tokenizer_config.json")


def find_metadata(source: Source) -> dict[str, Any]:
    """Values by key, ready for JSON.

    An array of more than 32 values is an object with its length and its first ones. Of a
    checkpoint's folder, each small file's object by the file's name.
    """
    if not isinstance(source, Path):
        return {key: _plain(source, key, value) for key, value in source.metadata.items()}
    files: dict[str, Any] = {SMALL_FILES[0]: dict(read_config(source).raw)}
    for name in SMALL_FILES[1:]:
        if (source / name).exists():
            files[name] = read_json(source / name)
    return files


def table(metadata: Mapping[str, Any]) -> str:
    """A line a key; long values are cut. An object's keys stand behind its name and a colon."""
    rows = [(key, shortened(value)) for key, value in _flat(metadata)]
    return columns(rows, "ll") if rows else ""


def _plain(file: GGUFFile, key: str, value: Any) -> Any:
    if isinstance(value, Array):
        values = file.strings(key) if value.type == STRING else file.numbers(key)
        if len(values) <= WHOLE:
            return [_plain(file, key, one) for one in values]
        return {"length": len(values), "first": [_plain(file, key, one) for one in values[:FIRST]]}
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no such numbers
    return value


def _flat(metadata: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key, value in metadata.items():
        if isinstance(value, dict) and set(value) == {"length", "first"}:
            yield key, f"{value['length']} values: {_joined(value['first'])}, …"
        elif isinstance(value, dict) and key in SMALL_FILES:
            yield from ((f"{key}: {name}", _written(inner)) for name, inner in value.items())
        else:
            yield key, _joined(value) if isinstance(value, list) else _written(value)


def _joined(values: list[Any]) -> str:
    return ", ".join(map(_written, values))


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


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
