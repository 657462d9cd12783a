"""llamacli show: what a model is, without running it."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

from llamacli.commands import options
from llamacli.commands.printing import print_json, print_rows, print_text
from llamacli.errors import NotFoundError, UsageError
from llamacli.models import DEMO, locate
from llamacli.terminal import notice

if TYPE_CHECKING:
    from llamacli.show import Source


def show(
    model: options.ModelOrFolder,
    config: Annotated[bool, "config.json, every key; `_derived` marks a guess."] = False,
    structure: Annotated[bool, "The module tree as PyTorch prints it."] = False,
    metadata: Annotated[bool, "Keys and values."] = False,
    tensors: Annotated[bool, "Name, shape (row-major), type, bytes, share."] = False,
    template: Annotated[bool, "The chat template."] = False,
    rope: Annotated[bool, "Rotary frequencies before and after scaling."] = False,
    as_json: Annotated[bool, "--json", "Any of these as JSON."] = False,
) -> None:
    """Show what a model is: a summary, or one part of it in full. No weight is read."""
    parts = {
        "--config": config, "--structure": structure, "--metadata": metadata,
        "--tensors": tensors, "--template": template, "--rope": rope,
    }  # fmt: skip
    chosen = [name for name, on in parts.items() if on]
    if len(chosen) > 1:
        raise UsageError(f"{' and '.join(chosen)} exclude each other")
    printers = {
        "--config": _config, "--structure": _structure, "--metadata": _metadata,
        "--tensors": _tensors, "--template": _template, "--rope": _rope,
    }  # fmt: skip
    try:
        source = open_source(model)
    except NotFoundError:
        if chosen or not _known_card(model, as_json):
            raise
        return
    printers.get("".join(chosen), _card)(source, as_json)


def open_source(model: str) -> "Source":
    """A checkpoint's folder as it is, anything else as the GGUF file it names, read.

    A name that is no model's may be an adapter's.
    """
    from llamacli.gguf import read_gguf
    from llamacli.models import existing_path, stored_adapter

    path = existing_path(model) if model and model != DEMO else None
    if path is not None and path.is_dir():
        return path
    try:
        return read_gguf(locate(model))
    except NotFoundError:
        if (adapter := stored_adapter(model)) is None:
            raise
        return read_gguf(adapter)


def _config(source: "Source", as_json: bool) -> None:  # noqa: ARG001
    from llamacli.show import find_config

    shown = find_config(source)
    for line in shown.notices:
        notice(line)
    print_json(shown.config.raw)


def _structure(source: "Source", as_json: bool) -> None:
    from llamacli.show import find_config, structure

    tree = structure.module_tree(find_config(source).config)
    if as_json:
        print_json(structure.as_json(tree))
    else:
        print_text(structure.render(tree) + "\n")


def _metadata(source: "Source", as_json: bool) -> None:
    from llamacli.show import find_metadata, table

    metadata = find_metadata(source)
    if as_json:
        print_json(metadata)
    else:
        print_text(table(metadata))


def _tensors(source: "Source", as_json: bool) -> None:
    from llamacli.show import tensors

    shown = tensors.find_tensors(source)
    if as_json:
        print_json(tensors.as_json(shown))
    else:
        print_text(tensors.table(shown))


def _template(source: "Source", as_json: bool) -> None:
    from convert import DEFAULT, TOOL_USE
    from llamacli.prompt import LLAMA3_TEMPLATE
    from llamacli.show import find_templates

    templates = find_templates(source)
    own = templates.get(DEFAULT)
    if as_json:
        others = {TOOL_USE: templates[TOOL_USE]} if TOOL_USE in templates else {}
        print_json({"template": own or LLAMA3_TEMPLATE, "own": own is not None, **others})
        return
    if TOOL_USE in templates:
        notice("where tools are given it has another one: --json shows both")
    if own is None:
        notice("it has no template of its own; this is Llama 3's, which is used instead")
    text = own or LLAMA3_TEMPLATE
    print_text(text if text.endswith("\n") else text + "\n")


def _rope(source: "Source", as_json: bool) -> None:
    from llamacli.show import rope

    frequencies = rope.find_rope(source)
    if as_json:
        print_json(rope.as_json(frequencies))
    else:
        print_text(f"{rope.table(frequencies)}\n{rope.plot(frequencies)}")


def _card(source: "Source", as_json: bool) -> None:
    from llamacli.show import card

    facts = card.describe(source)
    if as_json:
        print_json(facts)
    else:
        print_rows(card.lines(facts))


def _known_card(name: str, as_json: bool) -> bool:
    """What models.toml has of a model that isn't in the store; False where it doesn't know it."""
    from llamacli.models import find
    from llamacli.show import known_lines

    model = find(name)
    if model is None:
        return False
    if as_json:
        print_json({**asdict(model), "stored": False})
    else:
        print_rows(known_lines(model))
    return True
