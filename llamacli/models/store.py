"""The model store: one folder of GGUF files, and when each was last used."""

import os
import re
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from llamacli.errors import NotFoundError, reading, writing
from llamacli.home import home, possible_name

DEMO = "demo"
DEMO_CHECKPOINT = Path(__file__).parents[1] / DEMO  # its folder in the package
ADAPTERS = "adapters"  # a folder of LoRA adapters, so that none is taken for a model
USED = ".used"  # a folder of empty files, named as the models: their times are those of last use
QUANTIZED = re.compile(r"(.+?)[-.](I?Q[1-8]_\w+|BF16|F16|F32)", re.IGNORECASE)


def stored_models() -> list[Path]:
    """The GGUF files in the store, by name. Raises NotFoundError for a store that can't be read."""
    return _files(home())


def stored_adapters() -> list[Path]:
    """The LoRA adapters in the store, by name. Raises as stored_models does."""
    return _files(home(ADAPTERS))


def _files(folder: Path) -> list[Path]:
    with reading(folder):  # glob would take one that can't be read for an empty one
        paths = sorted(folder.iterdir()) if folder.exists() else []
    return [path for path in paths if path.match("[!.]*.gguf") and path.is_file()]


def target_path(name: str, quantization: str) -> Path:
    """Where a conversion goes that was given no -o; makes the folder."""
    return target_folder() / possible_name(f"{name}-{quantization}.gguf")


def folder_name(folder: Path) -> str:
    """What is made of a checkpoint's folder is called as the folder, without dots that would hide
    it. The Hub's cache calls folders by their commits; there it is called as the repo."""
    folder = folder.resolve()
    repo = folder.parent.parent.name
    if folder.parent.name == "snapshots" and repo.startswith("models--"):
        return repo.rpartition("--")[2]
    return folder.name.lstrip(".") or "model"


def target_folder(*inside: str) -> Path:
    """The store's folder, or one inside, made where it isn't there."""
    folder = home(*inside)
    with writing(f"the model store {folder}", "made", "set LLAMACLI_HOME"):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def split_name(stem: str) -> tuple[str, str]:
    """A file's name without .gguf as the model's name and the quantization at its end, or ''."""
    match = QUANTIZED.fullmatch(stem)
    return (match[1], match[2]) if match else (stem, "")


def in_store(path: Path) -> bool:
    """Whether a path lies in the store's folder itself, however it is written."""
    return path.parent.resolve() == home().resolve()


def remove_model(path: Path) -> None:
    """Remove a model or an adapter of the store, or a link in it but not what it leads to.

    Programs that have it loaded keep it. Raises NotFoundError where it is gone already or lies
    elsewhere, OutputError where the system refuses.
    """
    adapter = path.parent.resolve() == home(ADAPTERS).resolve()
    if not (adapter or in_store(path)):
        raise NotFoundError(f"{path} is not in the store {home()}; nothing else is removed")
    if not os.path.lexists(path):
        raise NotFoundError(f"there is no file {path}")
    with writing(path, "removed"):
        path.unlink()
    if not adapter:
        with suppress(OSError):
            _marker(path).unlink()


def mark_used(path: Path) -> None:
    """Note that a model of the store is used now, where the store can be written."""
    if in_store(path):
        with suppress(OSError):
            _marker(path).parent.mkdir(exist_ok=True)
            _marker(path).touch()


def last_used(path: Path) -> datetime | None:
    """When a model of the store was last used, in local time; None is never."""
    try:
        return datetime.fromtimestamp(_marker(path).stat().st_mtime).astimezone()
    except (OSError, ValueError, OverflowError):
        return None


def _marker(path: Path) -> Path:
    return home() / USED / path.name
