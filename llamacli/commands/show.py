"""llamacli show: what a model is, without running it."""

from dataclasses import asdict
from typing import Annotated

from llamacli import models, show as showing
from llamacli.commands import options
from llamacli.commands.printing import print_either, print_json, print_rows, print_text
from llamacli.errors import NotFoundError, UsageError
from llamacli.terminal import notice


def show(
    model: options.ModelOrFolder,
    config: Annotated[bool, "config.json, every key; `_derived` marks a guess."] = False,
    structure: Annotated[bool, "The module tree as PyTorch prints it."] = False,
    metadata: Annotated[bool, "Keys and values."] = False,
    tensors: Annotated[bool, "Name, shape (row-major), type, bytes, share."] = False,
    template: Annotated[bool, "The chat template."] = False,
    rope: Annotated[bool, "Rotary frequencies before and after scaling."] = False,
    as_json: options.AsJson = False,
) -> None:
    """Show what a model is: a summary, or one part of it in full. No weight is read."""
    chosen = options.exclusive(
        config=config, structure=structure, metadata=metadata,
        tensors=tensors, template=template, rope=rope,
    )  # fmt: skip
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
    printers.get(chosen or "", _card)(source, as_json)


def open_source(model: str) -> "showing.Source":
    """A checkpoint's folder as it is, anything else as the GGUF file it names, read.

    A name that is no model's may be an adapter's, whose folder lies here perhaps.
    """
    from llamacli.gguf import read_gguf

    path = models.existing_path(model) if model and model != models.DEMO else None
    if path is not None and path.is_dir():
        from convert import is_adapter

        if not is_adapter(path):
            return path
        if (adapter := models.stored_adapter(model)) is not None:
            return read_gguf(adapter)
        hint = f"`llamacli convert {model}` makes a file of it"
        raise UsageError(f"{model} is a LoRA adapter as PEFT saves it", hint=hint)
    try:
        return read_gguf(models.locate(model))
    except NotFoundError:
        if (adapter := models.stored_adapter(model)) is None:
            raise
        return read_gguf(adapter)


def _config(source: "showing.Source", as_json: bool) -> None:  # noqa: ARG001
    shown = showing.find_config(source)
    for line in shown.notices:
        notice(line)
    print_json(shown.config.raw)


def _structure(source: "showing.Source", as_json: bool) -> None:
    structure = showing.structure
    tree = structure.module_tree(showing.find_config(source).config)
    print_either(as_json, structure.as_json(tree), structure.render(tree) + "\n")


def _metadata(source: "showing.Source", as_json: bool) -> None:
    metadata = showing.find_metadata(source)
    print_either(as_json, metadata, showing.table(metadata))


def _tensors(source: "showing.Source", as_json: bool) -> None:
    shown = showing.tensors.find_tensors(source)
    print_either(as_json, showing.tensors.as_json(shown), showing.tensors.table(shown))


def _template(source: "showing.Source", as_json: bool) -> None:
    from convert import DEFAULT, TOOL_USE
    from llamacli.prompt import LLAMA3_TEMPLATE

    templates = showing.find_templates(source)
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


def _rope(source: "showing.Source", as_json: bool) -> None:
    rope = showing.rope
    found = rope.find_rope(source)
    print_either(as_json, rope.as_json(found), f"{rope.table(found)}\n{rope.plot(found)}")


def _card(source: "showing.Source", as_json: bool) -> None:
    facts = showing.card.describe(source)
    if as_json:
        print_json(facts)
    else:
        print_rows(showing.card.lines(facts))


def _known_card(name: str, as_json: bool) -> bool:
    """What models.toml has of a model that isn't in the store; False where it doesn't know it."""
    model = models.find(name)
    if model is None:
        return False
    if as_json:
        print_json({**asdict(model), "stored": False})
    else:
        print_rows(showing.known_lines(model))
    return True
