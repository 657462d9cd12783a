"""Where the program's own files are, and how one is replaced: whole, or not at all."""

import os
from contextlib import suppress
from pathlib import Path


def home() -> Path:
    """$LLAMACLI_HOME where it is set, else the platform's folder for user data."""
    if chosen := os.environ.get("LLAMACLI_HOME"):
        return Path(chosen).expanduser()
    import platformdirs

    return platformdirs.user_data_path("llamacli")


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
