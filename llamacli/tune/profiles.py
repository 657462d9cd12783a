"""What `llamacli tune` found best for a model on this machine, kept in the store's folder `tuned`.

A file's name is made of two hashes: the model's file, and all else that a measurement depends on
(processor, cores, devices, llama.cpp). What was found elsewhere or before a change is never read.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from llamacli.engine import Profile
from llamacli.errors import UsageError, writing
from llamacli.home import home, replace_file
from llamacli.speculate import Costs

MAX_BYTES = 1 << 20
FOLDER = "tuned"
COSTS = "costs"  # the key of what tune measured for speculation
TYPES: dict[str, type] = {
    "threads": int, "threads_batch": int, "batch": int, "ubatch": int,
    "repack": bool, "flash_attention": str, "gpu_layers": int,
}  # fmt: skip
PROFILES: tuple[Profile, ...] = ("short", "long")


def tuned_settings(
    path: Path,
    profile: Profile,
    on_problem: Callable[[str], None] = lambda _: None,
    workers: Sequence[object] = (),
) -> dict[str, Any] | None:
    """EngineSettings' fields for the model at path, by name; None where nothing was measured.

    A file that can't be read as what `keep` writes counts as none; on_problem gets to know.
    """
    try:
        profiles = _read(path, workers)
        whole = profile in profiles or COSTS not in profiles
        return _checked(profiles[profile]) if whole else None
    except FileNotFoundError:
        return None
    except OSError as error:
        on_problem(f"{kept_path(path, workers)} can't be read: {error.strerror}")
    except (ValueError, KeyError, TypeError, RecursionError, UsageError):
        kept = kept_path(path, workers)
        on_problem(f"{kept} is damaged and not used; run `llamacli tune` again")
    return None


def tuned_costs(path: Path) -> Costs | None:
    """What checking drafts costs for the model at path; None where it wasn't measured."""
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        known = {int(size): float(cost) for size, cost in _read(path)[COSTS].items()}
        sound = all(0 < size <= 1 << 16 and 0.1 <= cost <= 1e5 for size, cost in known.items())
        if sound and known.get(1) == 1 and 2 <= len(known) <= 64:
            return Costs(known)
    return None


def _read(path: Path, workers: Sequence[object] = ()) -> Any:
    """What is kept for the model at path, unchecked. Raises OSError, and ValueError."""
    if not home(FOLDER).is_dir():  # spares who never tuned the hashes
        raise FileNotFoundError
    with kept_path(path, workers).open("rb") as file:
        return json.loads(file.read(MAX_BYTES))


def check_place() -> None:
    """Raises OutputError where nothing can be kept, before it is measured."""
    folder = home(FOLDER)
    with writing(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()


def keep(path: Path, found: Mapping[str, Any], workers: Sequence[object] = ()) -> None:
    """Write what was found for the model at path, by names, beside what was kept by others.

    That is settings by a profile's name, costs of drafts, and what is for people to read. Raises
    OutputError where it can't be written.
    """
    kept = kept_path(path, workers)
    before: Any = None
    with suppress(OSError, ValueError, RecursionError):
        before = _read(path, workers)
    if not isinstance(before, dict):
        before = {"model": str(path), "machine": machine(workers)}
    with writing(kept):
        replace_file(kept, json.dumps({**before, **found}, indent=2).encode())


def forget(path: Path) -> int:
    """Remove what was kept for the model at path, of earlier versions and machines too.

    Returns how many files that were. Raises OutputError where one can't be removed.
    """
    files = list(home(FOLDER).glob(f"{_model_hash(path)}-*.json"))
    for kept in files:
        with writing(kept, "removed"):
            kept.unlink(missing_ok=True)
    return len(files)


def kept_path(path: Path, workers: Sequence[object] = ()) -> Path:
    """Where the settings for the model at path are, on this machine and with those workers."""
    return home(FOLDER) / f"{_model_hash(path)}-{_hash(machine(workers))}.json"


def machine(workers: Sequence[object] = ()) -> dict[str, Any]:
    """All that a measurement depends on beside the model: devices, cores, llama.cpp's build."""
    from llamacli.machine import find_devices, load_library, physical_cores

    library = load_library()
    return {
        "devices": [f"{one.name}: {one.description}" for one in find_devices()],
        "cores": physical_cores(),
        "processors": os.cpu_count(),
        "llama.cpp": library.llama_version().decode(errors="replace"),
        "library bytes": Path(library._lib._name).stat().st_size,  # builds share versions
        "features": library.llama_print_system_info().decode(errors="replace"),
        **({"workers": [str(worker) for worker in workers]} if workers else {}),
    }


def _checked(kept: Any) -> dict[str, Any]:
    from llamacli.engine import EngineSettings

    if not isinstance(kept, dict):
        raise TypeError
    settings = {name: kept[name] for name in TYPES if name in kept}
    if not all(type(value) is TYPES[name] for name, value in settings.items()):
        raise TypeError
    EngineSettings(**settings)
    return settings


def _model_hash(path: Path) -> str:
    from llamacli.gguf import file_identity

    return _hash(file_identity(path))


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
