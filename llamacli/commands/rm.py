"""llamacli rm: models out of the store."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from llamacli.commands.options import complete_models
from llamacli.errors import UsageError
from llamacli.terminal import ask, count, notice


def rm(
    models: Annotated[
        list[str], typer.Argument, complete_models, "<MODEL...>", "Names in the store."
    ],
    yes: Annotated[bool, "-y", "Don't ask."] = False,
) -> None:
    """Remove models and adapters from the store, after asking; no files elsewhere."""
    from llamacli.models import find_stored, remove_model

    paths = list(dict.fromkeys(map(find_stored, models)))
    names = [f"{path.stem} ({count(_size(path), 'B')})" for path in paths]
    if not yes:
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise UsageError("rm asks on a terminal only; give --yes to remove without asking")
        if not ask(f"remove {', '.join(names)}?"):
            return
    for path, name in zip(paths, names, strict=True):
        remove_model(path)
        notice(f"removed {name}")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
