"""GGUF files on the Hub: which of a repo's is meant, and its parts where it is split."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from llamacli.errors import InvalidModelError, NotFoundError, UsageError
from llamacli.hub.repo import Repo
from llamacli.models import HUB_ID, registry, split_name

SPLIT = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf", re.IGNORECASE)


@dataclass(frozen=True)
class Wanted:
    """owner/repo, and after it :QUANTIZATION, /FILE, or nothing."""

    repo: str
    quantization: str | None = None
    file: str | None = None


def parse_wanted(text: str) -> Wanted:
    """What the user wrote. Raises UsageError where it is none of the forms."""
    text = registry.without_address(text)
    repo, colon, quantization = text.partition(":")
    if colon and HUB_ID.fullmatch(repo) and re.fullmatch(r"[\w.-]+", quantization, re.ASCII):
        return Wanted(repo, quantization=quantization)
    owner, *rest = text.split("/", 2)
    repo = "/".join((owner, *rest[:1]))
    if not colon and HUB_ID.fullmatch(repo) and all(rest):
        return Wanted(repo, file=rest[1] if len(rest) > 1 else None)
    if registry.find(text) is not None:
        raise UsageError(f"{text} is a checkpoint's name; `llamacli convert {text}` gets it")
    raise UsageError(
        f"{text!r} names no GGUF file on the Hub; write owner/repo:Q4_K_M, owner/repo/file.gguf, "
        "or owner/repo where it has one"
    )


def choose(repo: Repo, wanted: Wanted) -> tuple[str, list[str]]:
    """The name for the file in the store, and the paths of its parts in order; often one.

    Raises NotFoundError or UsageError with what there is, InvalidModelError where parts are
    missing.
    """
    whole = _group(repo.files)
    if not whole:
        raise NotFoundError(f"{repo.id} has no GGUF files; is `llamacli convert {repo.id}` meant?")
    names = [name for name in whole if _fits(name, whole[name], wanted)]
    if len(names) != 1:
        tags = sorted({split_name(_stem(name))[1] or name for name in names or whole})
        there = ", ".join(tags[:20]) + (", …" if len(tags) > 20 else "")
        asked = wanted.quantization or wanted.file
        if not names:
            raise NotFoundError(f"{repo.id} has no {asked}; there are {there}")
        raise UsageError(f"{repo.id} has several; name one, as {repo.id}:{tags[0]}, of {there}")
    name = PurePosixPath(names[0]).name
    if name.startswith("."):
        raise InvalidModelError(f"{name} would be hidden in the store")
    return name, _in_order(repo.id, whole[names[0]])


def _group(files: Mapping[str, object]) -> dict[str, list[str]]:
    """GGUF files by path, the parts of a split one under the path that it would have whole."""
    groups: dict[str, list[str]] = {}
    for name in sorted(files):
        if name.lower().endswith(".gguf"):
            split = SPLIT.fullmatch(name)
            groups.setdefault(f"{split[1]}.gguf" if split else name, []).append(name)
    return groups


def _fits(name: str, parts: list[str], wanted: Wanted) -> bool:
    if wanted.file is not None:
        return wanted.file == name or wanted.file in parts
    if wanted.quantization is None:
        return True
    tag = re.escape(wanted.quantization)
    return re.fullmatch(rf"(.*[-.])?{tag}", _stem(name), re.IGNORECASE) is not None


def _stem(name: str) -> str:
    return PurePosixPath(name).stem


def _in_order(repo: str, parts: list[str]) -> list[str]:
    """All parts by number, or the one file that isn't split."""
    numbers = [SPLIT.fullmatch(part) for part in parts]
    if numbers == [None]:
        return parts
    counted = {(int(m[2]), int(m[3])) for m in numbers if m is not None}
    if counted != {(i, len(parts)) for i in range(1, len(parts) + 1)}:
        raise InvalidModelError(f"{repo} has {parts[0]}, but not all of its parts")
    return parts
