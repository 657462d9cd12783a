"""The model store: one folder of GGUF files, and how a name becomes a path."""

import os
from pathlib import Path

from llamacli.errors import NotFoundError, UsageError

DEMO = "demo"


def home() -> Path:
    """$LLAMACLI_HOME where it is set, else the platform's folder for user data."""
    if chosen := os.environ.get("LLAMACLI_HOME"):
        return Path(chosen).expanduser()
    import platformdirs

    return platformdirs.user_data_path("llamacli")


def stored_models() -> list[Path]:
    """The GGUF files in the store, by name."""
    folder = home()
    return sorted(folder.glob("[!.]*.gguf")) if folder.is_dir() else []


def target_path(name: str, quantization: str) -> Path:
    """Where a conversion goes that was given no -o; makes the folder."""
    folder = home()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        from llamacli.errors import OutputError

        raise OutputError(
            f"the model store {folder} can't be made: {error.strerror}; set LLAMACLI_HOME"
        ) from error
    return folder / f"{name}-{quantization}.gguf"


def find_model(model: str) -> Path:
    """The GGUF file that MODEL means: a path, or a name in the store with or without -QUANT.

    Raises NotFoundError with the nearest names, UsageError where several files match.
    """
    path = Path(model).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        raise UsageError(f"{model} is a folder; convert it first: llamacli convert {model}")
    if path.suffix == ".gguf" and len(path.parts) > 1:
        raise NotFoundError(f"there is no file {model}")
    stored = stored_models()
    wanted = model.lower().removesuffix(".gguf")
    exact = [p for p in stored if p.stem.lower() == wanted]
    matches = exact or [p for p in stored if p.stem.lower().rpartition("-")[0] == wanted]
    if len(matches) == 1:
        return matches[0]
    if matches:
        names = ", ".join(p.stem for p in matches)
        raise UsageError(f"{model} is there in several quantizations; name one: {names}")
    raise NotFoundError(_not_found(model, [p.stem for p in stored]))


def _not_found(model: str, names: list[str]) -> str:
    import difflib

    near = difflib.get_close_matches(model, [*names, DEMO], n=3, cutoff=0.5)
    if near:
        return f"there is no model {model}; did you mean {' or '.join(near)}?"
    there = f"the store has {', '.join(names)}" if names else "the store is empty"
    return f"there is no model {model}; {there} (the built-in one is `demo`)"
