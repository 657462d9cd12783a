"""llamacli path: where a model's file lies."""

import os
import sys
from typing import Annotated

import typer

from llamacli.commands.options import complete_models
from llamacli.commands.printing import print_text
from llamacli.models import locate


def path(
    model: Annotated[
        str,
        typer.Argument(autocompletion=complete_models, help="A name, as -m takes it."),
    ],
) -> None:
    """Print the path of a model's file, for other programs."""
    found = locate(model).absolute()
    if sys.stdout.isatty():
        print_text(f"{found}\n")
    else:  # names of files are bytes, and these are the very ones
        sys.stdout.buffer.write(os.fsencode(found) + b"\n")
