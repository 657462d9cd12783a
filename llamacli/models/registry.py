"""Models by a short name, and the user's defaults: models.toml of the package and of the user.

The user's file, in the config folder, adds models, changes some keys of known ones, and may hold
a table `defaults` with what commands use where no option is given.
"""

import os
import re
from collections.abc import Mapping, Sequence
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
# Settings of `defaults`, called as the options' values are: type, least and most of numbers.
NUMBERS: dict[str, tuple[type, float, float]] = {
    "context": (int, 1, 1 << 31),
    "threads": (int, 1, 512),
    "gpu_layers": (int, 0, 1 << 31),
    "max_tokens": (int, 1, 1 << 31),
    "seed": (int, 0, (1 << 32) - 2),
    "temperature": (float, 0.0, 1e6),
    "top_k": (int, 0, 1 << 31),
    "top_p": (float, 0.0, 1.0),
    "min_p": (float, 0.0, 1.0),
    "repeat_penalty": (float, 0.0, 1e6),
    "worker_timeout": (float, 0.001, 1e8),
}
TEXTS = ("model", "workers", "split")
WORDS = {
    "context": ("auto",),
    "gpu_layers": ("auto",),
    "device": ("auto", "cpu", "metal", "cuda", "vulkan"),
    "kv_type": ("f16", "q8_0", "q4_0"),
    "flash_attention": ("auto", "on", "off"),
}


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
    """What the user's file sets where no option is given: keys of TEXTS, NUMBERS and WORDS.

    Raises InvalidModelError naming the file, and the table and key that are wrong.
    """
    path = config_file()
    given = _read(path).get(DEFAULTS, {}) if path.is_file() else {}
    if not isinstance(given, Mapping):
        _fail(path, (DEFAULTS,), "is not a table")
    for key, value in given.items():
        _check_default(path, key, value)
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
        _check(path, (name, key), value)
    inherited = {} if known is None else {f.name: getattr(known, f.name) for f in fields(Model)}
    for key, dependent in DEPENDS.items():
        if key in entry and entry[key] != inherited.get(key):
            inherited = {k: value for k, value in inherited.items() if k not in dependent}
    values = {**inherited, **entry, "name": name}
    if "source" not in values:
        _fail(path, (name,), "has no source: a Hub id, or a checkpoint's folder")
    return Model(**values)


def _check_default(path: Path, key: str, value: Any) -> None:
    place = (DEFAULTS, key)
    if key in TEXTS:
        _text(path, place, value)
    elif value in WORDS.get(key, ()):
        return
    elif key in NUMBERS:
        _number(path, place, value, *NUMBERS[key])
    elif key in WORDS:
        _fail(path, place, f"is {value!r}, none of {', '.join(WORDS[key])}")
    else:
        _unknown(path, place, [*TEXTS, *NUMBERS, *WORDS])


def _check(path: Path, place: tuple[str, str], value: Any) -> None:
    key = place[-1]
    if key == "source":
        _check_source(path, place, value)
    elif key == "revision":
        if not REVISION.fullmatch(_text(path, place, value)) or ".." in value:
            _fail(path, place, f"is {value!r}, not a branch, tag or commit")
    elif key == "quantization":
        if _text(path, place, value) not in QUANTIZATIONS:
            _fail(path, place, f"is {value!r}, none of {', '.join(QUANTIZATIONS)}")
    elif key in ("license", "draft"):
        _text(path, place, value)
    elif key in {field.name for field in fields(Model)} - {"name"}:
        _number(path, place, value, int, 1, MAX_COUNT)
    else:
        _unknown(path, place, [f.name for f in fields(Model) if f.name != "name"])


def _check_source(path: Path, place: tuple[str, str], value: Any) -> None:
    if _text(path, place, value) == BUILT_IN:
        if place[0] != DEMO:
            _fail(path, place, f"is {BUILT_IN!r}, which {DEMO} alone is")
    elif (
        not HUB_ID.fullmatch(value) and not value.startswith("~") and not Path(value).is_absolute()
    ):
        what = "neither a Hub id, as owner/name, nor a folder's absolute path"
        _fail(path, place, f"is {value!r}, {what}")


def _text(path: Path, place: tuple[str, ...], value: Any) -> str:
    if not isinstance(value, str) or not value or not value.isprintable():
        _fail(path, place, f"is {value!r}, not a line of text")
    return value


def _number(
    path: Path, place: tuple[str, ...], value: Any, kind: type, least: float, most: float
) -> None:
    kinds = int if kind is int else (int, float)
    if not isinstance(value, kinds) or isinstance(value, bool) or not least <= value <= most:
        name = "whole number" if kind is int else "number"
        _fail(path, place, f"is {value!r}, not a {name} from {least:g} to {most:g}")


def _unknown(path: Path, place: tuple[str, ...], known: Sequence[str]) -> NoReturn:
    import difflib

    near = difflib.get_close_matches(place[-1], known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
    _fail(path, place, f"is not known; {hint}")


def _fail(path: Path, place: tuple[str, ...], what: str) -> NoReturn:
    """What is wrong with the table or key at that place."""
    raise InvalidModelError(f"{'.'.join(place)} {what}", file=path)
