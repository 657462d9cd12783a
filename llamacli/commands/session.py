"""What the commands that answer do alike: find and load the model, show an answer."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from llamacli.demo_model import demo_model
from llamacli.errors import UsageError
from llamacli.store import DEMO, find_model

if TYPE_CHECKING:
    from llamacli.engine import Engine


def model_path(model: str | None, *, quiet: bool = False) -> Path:
    """The file that -m means; the demo is converted on its first use."""
    if model is None:
        raise UsageError(
            "name a model with -m or in $LLAMACLI_MODEL: a GGUF file, a name in the store, "
            "or `demo`"
        )
    if model == DEMO and not Path(DEMO).is_file():
        return demo_model(None if quiet else lambda: notice("converting the demo, this once"))
    return find_model(model)


def open_engine(
    model: str | None, context: int | None, threads: int | None, *, quiet: bool = False
) -> "Engine":
    """The model, loaded."""
    from llamacli.engine import Engine
    from llamacli.loading import EngineSettings

    path = model_path(model, quiet=quiet)
    settings = EngineSettings(context=context, threads=threads)
    return Engine(path, settings, debug=debugging())


def debugging() -> bool:
    return bool(os.environ.get("LLAMACLI_DEBUG"))


def notice(text: str) -> None:
    """One line on stderr."""
    print(f"llamacli: {text}", file=sys.stderr)


def lively(stream: TextIO) -> bool:
    """Whether a line that rewrites itself may be shown there."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"
