"""The demo: a checkpoint inside the package, converted into the store on first use."""

import math
from collections.abc import Callable
from pathlib import Path

from llamacli.models.store import DEMO, target_path

QUANTIZATION = "Q4_K_M"


def demo_model(on_convert: Callable[[], None] | None = None) -> Path:
    """The demo's GGUF file, made now (a second or two) where it isn't there or is older.

    on_convert is called before a conversion starts.
    """
    from importlib.resources import as_file, files

    target = target_path(DEMO, QUANTIZATION)
    with as_file(files("llamacli") / DEMO) as checkpoint:
        weights = checkpoint / "model.safetensors"
        if _modified(target) < weights.stat().st_mtime:
            from convert import convert

            if on_convert is not None:
                on_convert()
            convert(checkpoint, target, QUANTIZATION, force=True)
    return target


def _modified(path: Path) -> float:
    """Another process may remove the file at any time."""
    try:
        return path.stat().st_mtime
    except OSError:
        return -math.inf
