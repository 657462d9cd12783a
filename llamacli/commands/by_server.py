"""What run and chat do where a server of the user's has the model loaded: they are its clients."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llamacli.commands import options

if TYPE_CHECKING:
    from llamacli.answer import OutputStyle, Result


def answer_by_server(
    path: Path,
    machine: options.Machine,
    context: Any,
    prompt: dict[str, Any],
    sampling: options.Sampling,
    ending: options.Ending,
    style: "OutputStyle",
    shape: options.Shape | None = None,
) -> "Result | None":
    """The answer, told in that manner; None where no server has the model as it is asked for.

    prompt has the messages, or a text and whether it is special. Whoever asks for something of the
    machine other than threads gets an engine of their own.
    """
    from llamacli.serve import own_socket

    if context is not None or replace(machine, threads=None) != options.Machine():
        return None
    if own_socket() is None:  # spares the others the 10 ms of HTTP's import
        return None
    from llamacli.serve import ask_server

    settings = {name: value for name, value in vars(sampling).items() if value is not None}
    body = {
        **prompt,
        **settings,
        "max_tokens": ending.max_tokens,
        "stop": ending.stop or [],
        "shape": _shape_text(shape) if shape is not None else None,
        "exact": True,
    }
    found = ask_server(path, body)
    if found is None:
        return None
    from llamacli.answer import tell
    from llamacli.terminal import notice

    if style.verbose:
        notice("a server that has the model loaded answers; --no-server goes without it")
    return tell(found.chunks, found.head, style)


def _shape_text(shape: options.Shape) -> dict[str, Any] | None:
    from llamacli.prompt import read_file

    if shape.schema is not None:
        return {"schema": read_file(shape.schema).text}
    if shape.grammar is not None:
        return {"grammar": read_file(shape.grammar).text}
    return {"choice": shape.choice} if shape.choice else None
