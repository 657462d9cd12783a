"""Where the program's own files are, and how one is replaced: whole, or not at all."""

import os
import re
from contextlib import suppress
from pathlib import Path

from llamacli.errors import NotFoundError, UsageError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
NOWHERE = Path(os.devnull, "llamacli")  # below what is no folder: not even root can make it


def home(*inside: str) -> Path:
    """$LLAMACLI_HOME where it is set, else the platform's folder for user data; or a place inside.

    A user without a home has a folder that isn't there and can't be made: nothing is kept.
    """
    if chosen := os.environ.get("LLAMACLI_HOME"):
        return expanded(chosen).joinpath(*inside)
    import platformdirs

    try:
        return platformdirs.user_data_path("llamacli").joinpath(*inside)
    except RuntimeError:
        return NOWHERE.joinpath(*inside)


def config_folder() -> Path:
    """The platform's folder for user configuration; a user without a home has none there."""
    import platformdirs

    try:
        return platformdirs.user_config_path("llamacli")
    except RuntimeError:
        return NOWHERE


def check_name(name: str, whose: str) -> str:
    """A name that a file of ours can have. Raises UsageError for another."""
    if not NAME.fullmatch(name):
        raise UsageError(
            f"{whose} name has letters, digits, '.', '_' and '-', at most 64; not {name!r}"
        )
    return name


def expanded(path: str | Path) -> Path:
    """The path with ~ or ~NAME as the home that it stands for. Raises NotFoundError for others."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise NotFoundError(f"{path}: there is no such home; write the path without ~") from None


def replace_file(path: Path, *parts: bytes | memoryview) -> None:
    """Write a file, and its folder; it appears whole or not at all. Raises OSError."""
    import tempfile

    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    number, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(number, "wb") as file:
            for part in parts:
                file.write(part)
        os.replace(name, path)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise
