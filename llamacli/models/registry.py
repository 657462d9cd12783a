"""Models by a short name, and the user's defaults: models.toml of the package and of the user.

The user's file, in the config folder, adds models, changes some keys of known ones, and may hold
a table `defaults` with what commands use where no option is given.
"""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NoReturn

from llamacli.errors import InvalidModelError, NotFoundError, reading
from llamacli.home import NAME, config_folder, expanded
from llamacli.models.store import DEMO

FILE = "models.toml"
VARIABLE = "LLAMACLI_CONFIG"
BUILT_IN = "built-in"
DEFAULTS = "defaults"
MAX_BYTES = 1 << 15  # tomllib's time grows with the square of a dotted key's length
# convert.QUANTIZATIONS' names; importing that costs every start of the program 0.2 s.
# fmt: off
QUANTIZATIONS = (
    "F32", "BF16", "F16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q5_1", "Q5_0", "Q4_K_M",
    "Q4_K_S", "Q4_1", "Q4_0", "IQ4_NL", "IQ4_XS", "Q3_K_L", "Q3_K_M", "Q3_K_S", "IQ3_M",
    "IQ3_S", "IQ3_XS", "IQ3_XXS", "Q2_K", "Q2_K_S", "IQ2_M", "IQ2_S", "IQ2_XS", "IQ2_XXS",
    "IQ1_M", "IQ1_S",
)
# fmt: on

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
# The Hub's address in front of an id, as browsers and other programs have it, and its page of a
# branch main behind it.
ADDRESS = re.compile(r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/(.+)", re.IGNORECASE)
PAGE = re.compile(r"(?<=/)(?:tree|blob|resolve)/main(?:/|$)")
REVISION = re.compile(r"[A-Za-z0-9][\w./-]{0,99}", re.ASCII)
MAX_COUNT = 1 << 50

Check = Callable[[Any], str]  # what is wrong with a value; "" where nothing is


@dataclass(frozen=True)
class Model:
    """A model that has a short name.

    source is a Hub id, the path of a checkpoint's folder, or "built-in"; quantization is what is
    made of it where no other is asked for; draft is the model that drafts for it. Sizes are in
    bytes, None where they aren't known: checkpoint_bytes is what is downloaded, gguf_bytes the file
    in that quantization, memory_bytes that file and an F16 KV cache of 8,192 tokens, or of the
    context where that is less.
    """

    name: str
    source: str
    revision: str = "main"
    quantization: str = "Q4_K_M"
    context: int | None = None
    draft: str | None = None
    license: str | None = None
    parameters: int | None = None
    checkpoint_bytes: int | None = None
    gguf_bytes: int | None = None
    memory_bytes: int | None = None


# What follows from other keys, and so isn't taken over from the package where those are changed.
DEPENDS = {
    "source": [field.name for field in fields(Model) if field.name not in ("name", "source")],
    "quantization": ["gguf_bytes", "memory_bytes"],
}


def models() -> dict[str, Model]:
    """All known models by name in lower case.

    Raises InvalidModelError naming the file, and the table and key that are wrong.
    """
    package, own = _package_file(), config_file()
    known: dict[str, Model] = {}
    for path in (package, own) if own.is_file() else (package,):
        for name, entry in _read(path).items():
            if name != DEFAULTS:
                known[name.lower()] = _model(path, name, entry, known.get(name.lower()))
    return known


def without_address(name: str) -> str:
    """A name on the Hub without the Hub's address: owner/repo, and what stands behind it."""
    found = ADDRESS.fullmatch(name)
    return name if found is None else PAGE.sub("", found[1].partition("?")[0], count=1).rstrip("/")


def find(name: str) -> Model | None:
    """The model of that short name, in any case, or with that Hub id."""
    wanted = name.lower()
    return next(
        (m for m in models().values() if wanted in (m.name.lower(), m.source.lower())), None
    )


def defaults() -> dict[str, Any]:
    """What the user's file sets where no option is given: keys of DEFAULT_KEYS.

    Raises InvalidModelError naming the file, and the table and key that are wrong.
    """
    path = config_file()
    given = _read(path).get(DEFAULTS, {}) if path.is_file() else {}
    if not isinstance(given, Mapping):
        _fail(path, (DEFAULTS,), "is not a table")
    for key, value in given.items():
        _check(path, (DEFAULTS, key), value, DEFAULT_KEYS)
    return dict(given)


def config_file() -> Path:
    """The user's models.toml, whether it is there or not.

    $LLAMACLI_CONFIG names the file or its folder; else it lies in the platform's config folder.
    Raises NotFoundError where the variable names a file that isn't there.
    """
    if chosen := os.environ.get(VARIABLE):
        path = expanded(chosen)
        if path.suffix != ".toml":
            return path / FILE
        if not path.is_file():
            raise NotFoundError(f"there is no file {path}, which ${VARIABLE} names")
        return path
    return config_folder() / FILE


def _package_file() -> Path:
    """In an installed package it lies inside, in a checkout beside the package."""
    inside = Path(__file__).parents[1] / FILE
    return inside if inside.is_file() else Path(__file__).parents[2] / FILE


def _read(path: Path) -> dict[str, Any]:
    import tomllib

    with reading(path), path.open("rb") as file:
        raw = file.read(MAX_BYTES + 1)
    if len(raw) > MAX_BYTES:
        raise InvalidModelError(f"{path} is absurdly large; {MAX_BYTES} bytes are read")
    try:
        return tomllib.loads(raw.decode())
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InvalidModelError(f"{path}, line {line}: it is not UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise InvalidModelError(f"{path} is not TOML: {error}") from None


def _model(path: Path, name: str, entry: Any, known: Model | None) -> Model:
    if not NAME.fullmatch(name):
        what = "is no fit name; letters, digits, '.', '_' and '-' are, at most 64"
        _fail(path, (name,), what)
    if not isinstance(entry, Mapping):
        _fail(path, (name,), "is not a table; write [name] above its keys")
    if known is not None and known.source == BUILT_IN:
        _fail(path, (name,), "is the built-in model and can't be changed")
    for key, value in entry.items():
        _check(path, (name, key), value, MODEL_KEYS)
    if entry.get("source") == BUILT_IN and name != DEMO:
        _fail(path, (name, "source"), f"is {BUILT_IN!r}, which {DEMO} alone is")
    inherited = {} if known is None else {f.name: getattr(known, f.name) for f in fields(Model)}
    for key, dependent in DEPENDS.items():
        if key in entry and entry[key] != inherited.get(key):
            inherited = {k: value for k, value in inherited.items() if k not in dependent}
    values = {**inherited, **entry, "name": name}
    if "source" not in values:
        _fail(path, (name,), "has no source: a Hub id, or a checkpoint's folder")
    return Model(**values)


def _check(path: Path, place: tuple[str, str], value: Any, checks: Mapping[str, Check]) -> None:
    if (check := checks.get(place[-1])) is None:
        import difflib

        near = difflib.get_close_matches(place[-1], checks, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(checks)}"
        _fail(path, place, f"is not known; {hint}")
    if fault := check(value):
        _fail(path, place, f"is {value!r}, {fault}")


def _fail(path: Path, place: tuple[str, ...], what: str) -> NoReturn:
    """What is wrong with the table or key at that place."""
    raise InvalidModelError(f"{'.'.join(place)} {what}", file=path)


def _line(value: Any) -> str:
    sound = isinstance(value, str) and value and value.isprintable()
    return "" if sound else "not a line of text"


def _word(*words: str) -> Check:
    return lambda value: "" if value in words else f"none of {', '.join(words)}"


def _number(kind: type, least: float, most: float, *words: str) -> Check:
    """A number between two, or one of some words."""
    name, kinds = ("whole number", (int,)) if kind is int else ("number", (int, float))

    def check(value: Any) -> str:
        number = isinstance(value, kinds) and not isinstance(value, bool)
        fits = value in words or (number and least <= value <= most)
        return "" if fits else f"not a {name} from {least:g} to {most:g}"

    return check


def _revision(value: Any) -> str:
    if fault := _line(value):
        return fault
    sound = REVISION.fullmatch(value) and ".." not in value
    return "" if sound else "not a branch, tag or commit"


def _source(value: Any) -> str:
    if (fault := _line(value)) or value == BUILT_IN:
        return fault
    sound = HUB_ID.fullmatch(value) or value.startswith("~") or Path(value).is_absolute()
    return "" if sound else "neither a Hub id, as owner/name, nor a folder's absolute path"


MODEL_KEYS: dict[str, Check] = {
    "source": _source,
    "revision": _revision,
    "quantization": _word(*QUANTIZATIONS),
    **dict.fromkeys(("license", "draft"), _line),
    **dict.fromkeys(
        ("context", "parameters", "checkpoint_bytes", "gguf_bytes", "memory_bytes"),
        _number(int, 1, MAX_COUNT),
    ),
}
# Called as the options' values are.
DEFAULT_KEYS: dict[str, Check] = {
    **dict.fromkeys(("model", "workers", "split"), _line),
    "context": _number(int, 1, 1 << 31, "auto"),
    "threads": _number(int, 1, 512),
    "gpu_layers": _number(int, 0, 1 << 31, "auto"),
    "max_tokens": _number(int, 1, 1 << 31),
    "seed": _number(int, 0, (1 << 32) - 2),
    "temperature": _number(float, 0.0, 100.0),
    "top_k": _number(int, 0, (1 << 31) - 1),
    "top_p": _number(float, 0.0, 1.0),
    "min_p": _number(float, 0.0, 1.0),
    "repeat_penalty": _number(float, 0.01, 100.0),
    "worker_timeout": _number(float, 0.001, 1e8),
    "device": _word("auto", "cpu", "metal", "cuda", "vulkan"),
    "kv_type": _word("f16", "q8_0", "q4_0"),
    "flash_attention": _word("auto", "on", "off"),
}
