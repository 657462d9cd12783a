"""What the commands that answer do alike: find the model, convert the demo, and load it."""

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from llamacli import gguf, machine, speculate, tune
from llamacli.errors import OutputError, UsageError
from llamacli.models import names
from llamacli.models.store import DEMO, DEMO_CHECKPOINT, mark_used, target_path
from llamacli.terminal import notice

if TYPE_CHECKING:
    from llamacli.engine import Asked, Engine, EngineSettings

QUANTIZATION = "Q4_K_M"  # the demo's
SMALL = 1 << 29  # bytes, that are loaded in less than 0.1 s


def demo_model(on_convert: Callable[[], None] | None = None) -> Path:
    """The demo's GGUF file, made now (a second or two) where it isn't there or is older.

    on_convert is called before a conversion starts.
    """
    target = target_path(DEMO, QUANTIZATION)
    if _modified(target) < (DEMO_CHECKPOINT / "model.safetensors").stat().st_mtime:
        from convert import convert

        if on_convert is not None:
            on_convert()
        convert(DEMO_CHECKPOINT, target, QUANTIZATION, force=True)
    return target


def _modified(path: Path) -> float:
    """Another process may remove the file at any time."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return -math.inf


def model_path(model: str | None, *, quiet: bool = False) -> Path:
    """The file that -m means, noted as used; without -m, the one model that there is."""
    path = names.only_model() if model is None else locate(model, quiet=quiet)
    mark_used(path)
    return path


def locate(model: str, *, quiet: bool = False) -> Path:
    """The file that a name means; the demo is converted on its first use."""
    if model.lower() == DEMO and not Path(DEMO).is_file():
        return demo_model(None if quiet else lambda: notice("converting the demo, this once"))
    return names.find_model(model)


@contextmanager
def engine_for(path: Path, asked: "Asked", *, quiet: bool = False) -> "Iterator[Engine]":
    """open_engine's, closed at the end."""
    engine = open_engine(path, asked, quiet=quiet)
    try:
        yield engine
    finally:
        close_in_background(engine)


def close_in_background(engine: "Engine") -> None:
    """Free a model beside what comes next: the end of the program, which doesn't wait for it."""
    try:
        threading.Thread(target=engine.close).start()
    except RuntimeError:  # the system lets it have no more threads
        engine.close()


def open_engine(
    path: Path,
    asked: "Asked",
    *,
    quiet: bool = False,
    on_load: "Callable[[float], None] | None" = None,
) -> "Engine":
    """The model, loaded as asked, with drafts unless they are off; on_load is Engine's."""
    from llamacli.engine import Engine

    settings = engine_settings(path, asked, quiet=quiet)
    drafting = drafting_for(path, asked, quiet=quiet)
    if drafting is None:
        return Engine(path, settings, on_load=on_load, meanwhile=_get_ready)
    return speculate.DraftingEngine(path, settings, drafting, on_load=on_load, meanwhile=_get_ready)


def drafting_for(path: Path, asked: "Asked", *, quiet: bool = False) -> "speculate.Drafting | None":
    """How answers of the model at path are drafted, as asked; None where drafts are off.

    Raises UsageError where a model is to draft all the same, and as draft_path does.
    """
    if asked.speculate == "off":
        if asked.draft is not None:
            raise UsageError("--draft goes with --speculate auto")
        return None
    draft = None if asked.draft is None else draft_path(asked.draft, path, quiet=quiet)

    def learned(costs: "speculate.Costs") -> None:
        if asked.tune and not asked.workers:
            with suppress(OutputError):  # they are measured again then
                tune.profiles.keep(path, {tune.profiles.COSTS: costs.known})

    costs = tune.tuned_costs(path) if asked.tune and not asked.workers else None
    return speculate.Drafting(draft, costs, learned)


def draft_path(draft: str, path: Path, *, quiet: bool = False) -> Path:
    """The file that --draft means; for auto the one that models.toml names for the model at path.

    Raises NotFoundError, and UsageError where it names none.
    """
    if draft != "auto":
        return model_path(draft, quiet=quiet)
    from llamacli.models.registry import models

    known = models()
    for name in names.short_names(path):
        model = known.get(name.lower())
        if model is not None and model.draft is not None:
            return model_path(model.draft, quiet=quiet)
    raise UsageError(f"models.toml names no draft for {path.name}; name a model: --draft MODEL")


def _get_ready(file: "gguf.GGUFFile") -> None:
    """What an answer needs next, while the model loads: 40 ms of imports and of its template.

    A small model is loaded before numpy is, which only makes choosing tokens quicker.
    """
    from llamacli.answer import generate, interrupts, write_text  # noqa: F401
    from llamacli.prompt import LLAMA3_TEMPLATE, prepare

    if file.weights_nbytes > SMALL:
        import numpy as np  # noqa: F401
    template = file.metadata.get(gguf.TEMPLATE_KEY)
    prepare(template if isinstance(template, str) else LLAMA3_TEMPLATE)


def engine_settings(path: Path, asked: "Asked", *, quiet: bool = False) -> "EngineSettings":
    """What was asked, else what `llamacli tune` found, else what suits the processor."""
    from llamacli.engine import chosen_settings

    tell = notice if not quiet else lambda _: None
    tuned = (
        tune.tuned_settings(path, asked.profile, tell, asked.workers or ()) if asked.tune else None
    )
    return chosen_settings(asked, tuned, machine.this_processor())
