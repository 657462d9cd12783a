"""The options that commands share, each written once; those that go together are in groups."""

from typing import Annotated, Any, Literal

import typer

from llamacli.errors import UsageError


def complete_models(incomplete: str) -> list[str]:
    from llamacli.models import complete_models  # 10 ms that only completion needs

    return complete_models(incomplete)


def count_or_auto(value: Any) -> Any:
    """A number or the word auto, for an option that takes both."""
    try:
        return value if value == "auto" else int(value)
    except ValueError:
        raise typer.BadParameter(f"{value!r} is neither a number nor auto") from None


def exclusive(**given: Any) -> str | None:
    """The option that is given; raises UsageError where there are several."""
    names = [f"--{name}" for name, value in given.items() if value not in (None, False)]
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
    Literal["strict", "replace"], "Refuse bytes that aren't UTF-8, or replace them by U+FFFD."
]
Context = Annotated[
    Any,
    typer.Option(
        "--context",
        "-c",
        parser=count_or_auto,
        metavar="N|auto",
        help="Tokens of context; auto is all that fits.  [default: the model's, at most 8192]",
    ),
]
Threads = Annotated[
    int | None,
    "$LLAMACLI_THREADS",
    "Threads.  [default: $LLAMACLI_THREADS, else all physical cores]",
]
Device = Annotated[str | None, "cpu, metal, cuda, vulkan or auto; `llamacli devices` lists them."]
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
