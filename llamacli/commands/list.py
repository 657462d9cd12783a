"""llamacli list: the models in the store, or those that have a short name."""

from dataclasses import asdict
from typing import Annotated, Any

from llamacli import models, terminal
from llamacli.commands import options
from llamacli.commands.printing import print_json, print_table


def list(  # noqa: A001
    known: Annotated[bool, "Those that have a short name, and what they need."] = False,
    as_json: options.AsJson = False,
) -> None:
    """List the models in the store: name, quantization, size, context, last use; adapters, too."""
    if known:
        _known(as_json)
        return
    from llamacli.home import home

    stored = models.inventory()
    if as_json:
        print_json([_as_object(model) for model in stored])
    elif stored:
        heads = ("name", "quantization", "size", "context", "last used")
        print_table(heads, [_row(model) for model in stored], "llrrl")
    else:
        terminal.notice(
            f"the store {home()} is empty; `llamacli list --known` has models to convert, "
            "and `-m demo` is built in"
        )


def _row(model: "models.Stored") -> tuple[str, ...]:
    name, size = model.path.stem, terminal.count(model.bytes, "B")
    used = "never" if model.last_used is None else f"{model.last_used:%Y-%m-%d %H:%M}"
    if model.problem is not None:
        return name, "damaged", size, "-", f"{used}; {terminal.shortened(model.problem)}"
    if model.adapter_of is not None:
        base = f" of {terminal.shortened(model.adapter_of)}" if model.adapter_of else ""
        return name, model.quantization or "unknown", size, "-", f"an adapter{base}"
    context = "-" if model.context is None else str(model.context)
    return name, model.quantization or "unknown", size, context, used


def _as_object(model: "models.Stored") -> dict[str, Any]:
    used = model.last_used and model.last_used.isoformat(timespec="seconds")
    fields = {**asdict(model), "path": str(model.path), "last_used": used}
    return {"name": model.path.stem, **fields}


def _known(as_json: bool) -> None:
    known = models.models().values()
    if as_json:
        print_json([asdict(model) for model in known])
        return
    heads = ("name", "parameters", "download", "size", "memory", "context")
    print_table(heads, [_known_row(model) for model in known], "lrrrrr")


def _known_row(model: "models.Model") -> tuple[str, ...]:
    def size(number: int | None, unit: str = "B") -> str:
        return "-" if number is None else terminal.count(number, unit)

    return (
        model.name,
        size(model.parameters, ""),
        size(model.checkpoint_bytes),
        size(model.gguf_bytes),
        size(model.memory_bytes),
        "-" if model.context is None else str(model.context),
    )
