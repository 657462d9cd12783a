"""How a command tells its options, and those that commands share; some go together, in groups.

`Annotated[str | None, "-m", "$LLAMACLI_MODEL", "<NAME>", complete_models, "Which model."]` is an
option with that help. Texts with a dash in front are its names, beside the parameter's own, which a
long one stands in for; a flag has no --no- form. $ begins the variable that may hold it, < what its
value is called; two numbers are the least and the most that it may be; a function completes it;
typer.Argument makes an argument of it. What these don't say, a typer.Option does.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from datetime import datetime
from functools import wraps
from inspect import Parameter, get_annotations, signature
from typing import Annotated, Any, Literal, get_args, get_type_hints

import typer

from llamacli.errors import UsageError

SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,15})?) ?([kMGT]i?)?B?", re.IGNORECASE)
POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


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
    """Those of a command or a group, and of the groups among them; what one inherits is last."""
    hints, own = get_type_hints(taker, include_extras=True), get_annotations(taker)
    parameters = signature(taker).parameters.items()
    for name, parameter in sorted(parameters, key=lambda one: one[0] not in own):
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
        elif one is count_or_auto:
            more |= {"parser": one, "metavar": "N|auto"}
        elif isinstance(one, tuple):
            more |= {"metavar": "<int>", "min": one[0], "max": one[1]}
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


def complete_models(incomplete: str) -> list[str]:
    from llamacli.models import complete_models  # 10 ms that only completion needs

    return complete_models(incomplete)


def count_or_auto(value: Any) -> Any:
    """A number or the word auto, for an option that takes both."""
    try:
        return value if value == "auto" else int(value)
    except ValueError:
        raise typer.BadParameter(f"{value!r} is neither a number nor auto") from None


def parse_size(text: str, option: str, other: str = "") -> int:
    """Bytes of 5.5GB, 5.5G, 800 MB, 5GiB. Raises UsageError; other is what may stand there, too."""
    if match := SIZE.fullmatch(text.strip()):
        unit = (match[2] or "").lower()
        base = 1024 if unit.endswith("i") else 1000
        if nbytes := int(float(match[1]) * base ** POWERS[unit[:1]]):
            return nbytes
    raise UsageError(f"{option}: {text!r} is no size; give one as 5.5GB or 900MB{other}")


def check_parallel(number: int) -> None:
    """Raises UsageError; not a range of the option's, since the most is 50 ms of imports away."""
    from llamacli.batch import MAX_PARALLEL

    if not 1 <= number <= MAX_PARALLEL:
        raise UsageError(f"--parallel is {number}; give 1 to {MAX_PARALLEL}")


def exclusive(**given: Any) -> str | None:
    """The option that is given, or argument, in capitals; raises UsageError for several."""
    names = [
        name if name.isupper() else f"--{name}"
        for name, value in given.items()
        if value not in (None, False)
    ]
    if len(names) > 1:
        raise UsageError(f"{' and '.join(names)} exclude each other")
    return names[0] if names else None


Model = Annotated[
    str | None,
    complete_models,
    "-m",
    "$LLAMACLI_MODEL",
    "A GGUF file, a name in the store, or `demo`.  [default: $LLAMACLI_MODEL]",
]
ModelArgument = Annotated[
    str | None,
    typer.Argument,
    complete_models,
    "$LLAMACLI_MODEL",
    "A GGUF file, a name in the store, or `demo`.  [default: $LLAMACLI_MODEL]",
]
ModelOrFolder = Annotated[
    str,
    typer.Argument,
    complete_models,
    "A GGUF file, a checkpoint's folder, a name in the store, or `demo`.",
]
System = Annotated[str | None, "-s", "The system prompt."]
Errors = Annotated[
    Literal["strict", "replace"] | None,
    "Refuse bytes that aren't UTF-8, or replace them by U+FFFD.",
]
Context = Annotated[
    Any,
    count_or_auto,
    "-c",
    "Tokens of context; auto is all that fits.  [default: the model's, at most 8192]",
]
Threads = Annotated[
    int | None,
    (1, 512),
    "$LLAMACLI_THREADS",
    "Threads.  [default: $LLAMACLI_THREADS, else by cores and GPUs]",
]
Device = Annotated[str | None, "cpu, metal, cuda, vulkan or auto; `llamacli devices` lists them."]
Host = Annotated[str, "The address to listen at."]
Port = Annotated[int, (0, 65535), "The port; 0 takes one that is free."]
Date = Annotated[
    datetime | None,
    typer.Option(
        formats=["%Y-%m-%d"], help="The template's today.  [default: today, or its own day]"
    ),
]
Adapter = Annotated[
    list[str] | None,
    "<FILE[:SCALE]>",
    "A LoRA adapter for the model (convert makes it); may be given again.",
]
Workers = Annotated[
    str | None,
    "$LLAMACLI_WORKERS",
    "<HOST:PORT,…>",
    "Machines that hold layers, too, by `llamacli worker`.  [default: $LLAMACLI_WORKERS]",
]
Split = Annotated[
    str | None,
    "$LLAMACLI_SPLIT",
    "<N,N…>",
    "The parts of this machine and of each worker: 3,1.  [default: by free memory]",
]
WorkerTimeout = Annotated[
    float | None,
    "$LLAMACLI_WORKER_TIMEOUT",
    "<SECONDS>",
    "A worker that takes longer for a step is lost.  [default: 300]",
]
NoServer = Annotated[bool, "Load the model, also where `llamacli serve` has it loaded."]
Force = Annotated[bool, "Replace the file if it exists."]
AsJson = Annotated[bool, "--json", "Give it all as JSON."]
Quiet = Annotated[bool, "-q", "Nothing on stderr but what went wrong."]
ToolThreshold = Annotated[float, "Call where a call has at least this probability, 0 to 1."]
