"""llamacli path: where a model's file lies."""

from typing import Annotated

import typer

from llamacli.commands.options import complete_models
from llamacli.models import locate
from llamacli.terminal import send_path


def path(
    model: Annotated[str, typer.Argument, complete_models, "A name, as -m takes it."],
) -> None:
    """Print the path of a model's file, for other programs."""
    send_path(locate(model).absolute())
