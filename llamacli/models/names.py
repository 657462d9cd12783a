"""How a model's name becomes a file: paths, names in the store, short names, and what is near.

And a LoRA adapter's, by what --adapter and --merge take: a file or a name, a colon, and a scale.
"""

import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path, PurePath

from llamacli import engine
from llamacli.errors import LlamacliError, NotFoundError, UsageError, reason
from llamacli.home import expanded, home, possible_name
from llamacli.models import registry, store
from llamacli.models.registry import HUB_ID, Model

SUGGESTED = "smollm2-1.7b"  # to whoever has no model yet: no licence to accept


def find_model(name: str) -> Path:
    """The GGUF file that a name means.

    It is a path, or a file in the store: its name with or without -QUANTIZATION, or the short name
    or Hub id of the model that it was made of. Case doesn't count, and `:` may stand for the dash
    before the quantization. Raises NotFoundError with what to do, or the nearest names, and
    UsageError where several files match.
    """
    if not name.strip():
        raise UsageError("the model's name is empty")
    path = existing_path(name)
    if path is not None and path.is_file():
        return path
    wanted = registry.without_address(name)
    if path is None and wanted == name and is_path(name):
        raise NotFoundError(f"there is no file {name}")
    stored = store.stored_models()
    paths = matching(wanted, stored)
    if paths:
        return _one(name, paths)
    if path is not None and path.is_dir():
        raise UsageError(f"{name} is a folder; convert it first: llamacli convert {name}")
    raise NotFoundError(_not_found(wanted, stored))


def find_checkpoint(name: str) -> tuple[Model, Path | None]:
    """The model of which a name means the checkpoint, and its folder; None where it is on the Hub.

    The name is that of a folder that is there, a known model's, or an id on the Hub. Raises
    NotFoundError with the nearest names.
    """
    if folder := existing_path(name):
        return Model(store.folder_name(folder), name), folder
    name = registry.without_address(name)
    model = registry.find(name)
    if model is None and HUB_ID.fullmatch(name):
        model = Model(name, name)
    if model is None:
        near = near_names(name)
        hint = f"did you mean {' or '.join(near)}?" if near else "`llamacli list --known` has names"
        raise NotFoundError(f"there is no folder {name} and no model of that name; {hint}")
    if model.source == registry.BUILT_IN:
        return model, store.DEMO_CHECKPOINT
    if HUB_ID.fullmatch(model.source):
        return replace(model, name=model.source.rpartition("/")[2]), None
    return model, expanded(model.source)


def is_path(name: str, kind: type[PurePath] = Path) -> bool:
    """Whether what isn't there can only have been meant as a file's path, of the system's kind."""
    path = kind(name)
    inside = name.lower().endswith(".gguf") and len(path.parts) > 1
    return inside or name.startswith((".", "~")) or bool(path.root)


def existing_path(name: str) -> Path | None:
    """The file or folder that a name is the path of, if it is.

    Raises NotFoundError where the system won't say.
    """
    path = expanded(name)
    try:
        return path if path.exists() else None
    except OSError as error:
        raise NotFoundError(f"{name} can't be looked for: {reason(error)}") from error


def find_stored(name: str) -> Path:
    """The file of the store that a name, or its own path, means; never one elsewhere.

    Where no model is called so it may be an adapter. Raises as find_model does.
    """
    path = existing_path(name)
    stored, adapters = store.stored_models(), store.stored_adapters()
    if path is not None and len(path.parts) > 1:
        own = [one for one in (*stored, *adapters) if _place(one) == _place(path)]
        if own:
            return own[0]
        if path.is_file():
            raise NotFoundError(f"{name} is not in the store {home()}")
    paths = matching(name, stored) or [one for one in adapters if _plain(one.name) == _plain(name)]
    if paths:
        return _one(name, paths)
    there = f"it has {_joined(stored)}" if stored else "it is empty"
    raise NotFoundError(f"there is no {name} in the store {home()}; {there}")


def stored_model(name: str, stored: Iterable[Path]) -> Path:
    """The one of those files that a name means, without a look at the disk.

    Raises NotFoundError, and UsageError where several match.
    """
    paths = matching(name, stored)
    if not paths:
        raise NotFoundError(f"there is no model {name}")
    return _one(name, paths)


def matching(name: str, stored: Iterable[Path]) -> list[Path]:
    """Those of the stored files that a name means: one that is called so exactly, else all."""
    wanted = _plain(name)
    exact = [path for path in stored if _plain(path.name) == wanted]
    if exact:
        return exact
    base, quantization = store.split_name(wanted)
    called = base.rpartition("/")[2] if HUB_ID.fullmatch(base) else base
    bases = {called, called.removesuffix("-gguf")} | aliases(registry.find(base))
    split = [(path, *store.split_name(_plain(path.name))) for path in stored]
    return [path for path, b, q in split if b in bases and quantization in ("", q)]


def aliases(model: Model | None) -> set[str]:
    """What files made of a model are called, in lower case and without the quantization.

    The Hub knows Meta-Llama-3.1-8B-Instruct as Llama-3.1-8B-Instruct, too.
    """
    if model is None:
        return set()
    source = Path(model.source).name.lower()
    return {model.name.lower(), source, source.removeprefix("meta-")}


def short_names(path: Path) -> list[str]:
    """The registry's names for a stored file."""
    base = store.split_name(path.stem.lower())[0]
    return [model.name for model in registry.models().values() if base in aliases(model)]


def only_model() -> Path:
    """The one model in the store, where none is named; the demo counts where it is alone.

    Raises NotFoundError where the store is empty, UsageError where there is a choice, with what
    to do.
    """
    stored = store.stored_models()
    paths = [path for path in stored if store.split_name(path.stem)[0] != store.DEMO] or stored
    if len(paths) == 1:
        return paths[0]
    if paths:
        raise UsageError(
            f"name a model with -m, in $LLAMACLI_MODEL, or as `model` under [defaults] in "
            f"{registry.config_file()}: {_joined(paths)}"
        )
    raise NotFoundError(f"there is no model yet; {_first_steps()}, or name a GGUF file with -m")


def near_names(name: str, stored: Iterable[Path] = ()) -> list[str]:
    """Names of models, stored or known, that look like name; the nearest first."""
    import difflib

    bases = [store.split_name(path.stem)[0] for path in stored]
    names = {known.lower(): known for known in (*bases, *registry.models())}
    near = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.6)
    return [names[key] for key in near]


def complete_models(incomplete: str) -> list[str]:
    """Names that -m takes and that begin so, for the shell's completion."""
    names = [store.DEMO]
    with suppress(LlamacliError):  # of the store, or of models.toml; commands tell it
        stored = store.stored_models()
        names += [path.stem for path in stored]
        names += [n for p in stored for n in short_names(p) if not p.stem.startswith(n)]
    return [name for name in dict.fromkeys(names) if name.startswith(incomplete)]


def _place(path: Path) -> Path:
    """Where a file lies that may be a link."""
    return path.parent.resolve() / path.name


def _plain(name: str) -> str:
    return name.lower().removesuffix(".gguf").replace(":", "-")


def _one(name: str, paths: list[Path]) -> Path:
    if len(paths) > 1:
        raise UsageError(f"{name} is there in several files; name one: {_joined(paths)}")
    return paths[0]


def _not_found(name: str, stored: list[Path]) -> str:
    base, quantization = store.split_name(_plain(name))
    if model := registry.find(base):
        option = f" --quant {quantization.upper()}" if quantization else ""
        return f"{name} is not in the store yet; `llamacli convert {model.name}{option}` gets it"
    repo = "/".join(name.partition(":")[0].split("/")[:2])
    if HUB_ID.fullmatch(repo):
        return (
            f"{name} is not in the store; from the Hub, `llamacli convert {repo}` gets a "
            f"checkpoint and `llamacli pull {name}` a GGUF file"
        )
    if near := near_names(name, stored):
        missing = near[0] != store.DEMO and not matching(near[0], stored)
        hint = f" (`llamacli convert {near[0]}` gets it)" if missing else ""
        return f"there is no model {name}; did you mean {' or '.join(near)}?{hint}"
    there = f"the store has {_joined(stored)}" if stored else "the store is empty"
    return f"there is no model {name}, and {there}; {_first_steps()}"


def _first_steps() -> str:
    return (
        f"try the small built-in one with `-m {store.DEMO}`, get a real one with "
        f"`llamacli convert {SUGGESTED}` (`llamacli list --known` has more)"
    )


def _joined(paths: Iterable[Path]) -> str:
    from llamacli.terminal import printable

    return ", ".join(printable(path.stem) for path in paths)


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
    stored = store.stored_adapters()
    names = ", ".join(one.stem for one in stored)
    there = f"the store has {names}" if stored else "`llamacli convert FOLDER` makes one of PEFT's"
    raise NotFoundError(f"there is no adapter {name}; {there}")


def stored_adapter(name: str) -> Path | None:
    """The adapter in the store that is called so, with or without .gguf."""
    adapters = store.stored_adapters()
    return next((one for one in adapters if _plain(one.name) == _plain(name)), None)


def adapter_choices(given: Sequence[str] | None) -> "tuple[engine.AdapterChoice, ...]":
    """What --adapter was given, FILE[:SCALE] each. Raises UsageError, NotFoundError."""
    if not given:
        return ()
    split = map(split_scale, given)
    return tuple(engine.AdapterChoice(adapter_path(name).resolve(), scale) for name, scale in split)


def adapter_target(name: str) -> Path:
    """Where an adapter's file goes that was given no -o; makes the folder."""
    return store.target_folder(store.ADAPTERS) / possible_name(f"{name}.gguf")
