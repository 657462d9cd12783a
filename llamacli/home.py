"""Where the program's own files are, and how one is replaced: whole, or not at all."""

import os
import re
from contextlib import suppress
from pathlib import Path, PureWindowsPath

from llamacli.errors import NotFoundError, UsageError
from llamacli.system import WINDOWS

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# What no file of Windows is called: characters, and devices, whatever follows their dot.
FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f]')
DEVICE = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³]) *(\..*)?", re.I | re.S)
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


def check_name(name: str, whose: str, *, windows: bool = WINDOWS) -> str:
    """A name that a file of ours can have. Raises UsageError for another."""
    if not NAME.fullmatch(name):
        raise UsageError(
            f"{whose} name has letters, digits, '.', '_' and '-', at most 64; not {name!r}"
        )
    if possible_name(name, windows=windows) != name:
        raise UsageError(f"Windows has no files that are called {name}; take another name")
    return name


def possible_name(name: str, *, windows: bool = WINDOWS) -> str:
    """What a file is called that should be called name: on Windows it can't always be.

    It has neither some characters nor a dot or a blank at the end, and con.txt is a device there.
    """
    if not windows:
        return name
    name = FORBIDDEN.sub("_", name).rstrip(". ")
    return f"_{name}" if not name or DEVICE.fullmatch(name) else name


def is_elsewhere(path: str, *, windows: bool = WINDOWS) -> bool:
    """Whether a look at a path asks another machine, which learns who this user is.

    On Windows that is what begins with two slashes of either kind, or a device: a path that a
    stranger's file names is not to be looked at then.
    """
    return windows and PureWindowsPath(path).drive.startswith("\\\\")


def expanded(path: str | Path) -> Path:
    """The path with ~ or ~NAME as the home that it stands for. Raises NotFoundError for others, and
    UsageError for an empty one, which would mean the folder that one is in, and for one with a
    character that no path has."""
    if path == "":
        raise UsageError("a name or a path is empty")
    if "\0" in str(path):
        raise UsageError(f"no path has the character that {str(path)!r} has")
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
