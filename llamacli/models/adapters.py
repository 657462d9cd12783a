"""LoRA adapters by what --adapter and --merge take: a file or a name, a colon, and a scale."""

import math
from collections.abc import Sequence
from pathlib import Path

from llamacli import engine
from llamacli.errors import NotFoundError, UsageError, writing
from llamacli.home import expanded, home, possible_name
from llamacli.models.store import ADAPTERS, stored_adapters

SUFFIX = ".gguf"


def split_scale(given: str) -> tuple[str, float]:
    """NAME:SCALE as its parts; the scale is 1 where there is none. Raises UsageError."""
    name, colon, number = given.rpartition(":")
    try:
        scale = float(number)
    except ValueError:
        return given, 1.0  # a path with a colon in it, perhaps
    if not colon or not name or expanded(given).exists():
        return given, 1.0
    if not math.isfinite(scale) or abs(scale) > engine.MAX_SCALE:
        raise UsageError(
            f"the scale of {name} is {number}; give a number up to {engine.MAX_SCALE:g}"
        )
    return name, scale


def adapter_path(name: str) -> Path:
    """The file that a name means: a path, or one of the store's adapters. Raises NotFoundError."""
    path = expanded(name)
    if path.is_file():
        return path
    if (found := stored_adapter(name)) is not None:
        return found
    if path.is_dir():
        raise UsageError(f"{name} is a folder; convert it first: llamacli convert {name}")
    stored = stored_adapters()
    names = ", ".join(one.stem for one in stored)
    there = f"the store has {names}" if stored else "`llamacli convert FOLDER` makes one of PEFT's"
    raise NotFoundError(f"there is no adapter {name}; {there}")


def stored_adapter(name: str) -> Path | None:
    """The adapter in the store that is called so, with or without .gguf."""
    return next((one for one in stored_adapters() if name in (one.stem, one.name)), None)


def adapter_choices(given: Sequence[str] | None) -> "tuple[engine.AdapterChoice, ...]":
    """What --adapter was given, FILE[:SCALE] each. Raises UsageError, NotFoundError."""
    if not given:
        return ()
    split = map(split_scale, given)
    return tuple(engine.AdapterChoice(adapter_path(name).resolve(), scale) for name, scale in split)


def adapter_target(name: str) -> Path:
    """Where an adapter's file goes that was given no -o; makes the folder."""
    folder = home(ADAPTERS)
    with writing(f"the folder {folder}", "made", "set LLAMACLI_HOME"):
        folder.mkdir(parents=True, exist_ok=True)
    return folder / possible_name(f"{name}{SUFFIX}")
