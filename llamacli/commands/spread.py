"""A command as typer takes it: its options told by texts, and each field of a group an option.

`Annotated[str | None, "-m", "$LLAMACLI_MODEL", "<NAME>", complete_models, "Which model."]` is an
option with that help. Texts with a dash in front are its names, beside the parameter's own, which a
long one stands in for; a flag has no --no- form. $ begins the variable that may hold it, < what its
value is called; a function completes it; typer.Argument makes an argument of it. What these don't
say, a typer.Option does.
"""

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from functools import wraps
from inspect import Parameter, signature
from typing import Annotated, Any, get_args, get_type_hints

import typer


def spread(command: Callable[..., None]) -> Callable[..., None]:
    """The command as typer takes it: with the fields of a group in the group's place."""
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {name: kind for name, kind in hints.items() if is_dataclass(kind)}
    parameters = list(_parameters(command))

    @wraps(command)
    def call(**given: Any) -> None:
        for name, group in groups.items():
            given[name] = group(**{field.name: given.pop(field.name) for field in fields(group)})
        command(**given)

    call.__signature__ = signature(command).replace(parameters=parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return call


def _parameters(taker: Any) -> Iterator[Parameter]:
    """Those of a command or a group, and of the groups among them."""
    hints = get_type_hints(taker, include_extras=True)
    for name, parameter in signature(taker).parameters.items():
        if is_dataclass(kind := hints[name]):
            yield from _parameters(kind)
        else:
            yield parameter.replace(kind=Parameter.KEYWORD_ONLY, annotation=_option(name, kind))


def _option(name: str, hint: Any) -> Any:
    """The annotation with an option of what is told; one that tells none as it is."""
    kind, *told = get_args(hint) if hasattr(hint, "__metadata__") else (hint,)
    if not told or not isinstance(told[-1], str):
        return hint
    make: Any = typer.Option
    names: list[str] = []
    more: dict[str, Any] = {}
    for one in told[:-1]:
        if one is typer.Argument:
            make = one
        elif callable(one):
            more["autocompletion"] = one
        elif one.startswith("$"):
            more |= {"envvar": one[1:], "show_envvar": False}
        elif one.startswith("<"):
            more["metavar"] = one[1:-1]
        else:
            names.append(one)
    if (names or kind is bool) and not any(one.startswith("--") for one in names):
        names.insert(0, f"--{name.replace('_', '-')}")
    return Annotated[kind, make(*names, help=told[-1], **more)]
