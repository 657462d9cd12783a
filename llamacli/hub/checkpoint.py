"""A checkpoint on the Hub: what converting it takes, and its files opened where they are.

An adapter is small beside a model, and so fetched into the Hub's cache whole.
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import constants, try_to_load_from_cache

import convert
from convert import ADAPTER_FILES, CONFIG, INDEX, SINGLE, WEIGHTS
from llamacli.errors import DoesNotFitError, InvalidModelError
from llamacli.hub.repo import Repo, download, fetch_small, http_client, look_up, remote_file
from llamacli.terminal import count, notice, printable

CONTEXT = 8192  # tokens that the memory for running is told for
KV_BYTES = 4  # of a key and a value in F16


@dataclass(frozen=True)
class Needs:
    """What converting a checkpoint takes, in bytes.

    fetched comes over the network, in so many files; cached of it stays in the Hub's cache;
    target is the GGUF file; running is that file and the KV cache of CONTEXT tokens, or of fewer
    where the model takes fewer.
    """

    fetched: int
    files: int
    cached: int
    target: int
    running: int


def is_gguf(name: str) -> bool:
    """Whether a repo's file is a GGUF file, by its name."""
    return name.lower().endswith(".gguf")


def read_outline(repo: Repo) -> "tuple[convert.LlamaConfig, list[str]]":
    """config.json and the names of the weights' files; no more is fetched than tells these.

    Raises CheckpointError where the repo is no such checkpoint, NotFoundError.
    """
    if not {SINGLE, INDEX} & repo.files.keys() and any(map(is_gguf, repo.files)):
        raise InvalidModelError(f"{repo.id} has GGUF files; `llamacli pull {repo.id}` gets one")
    convert.require_safetensors(repo.id, repo.files)
    folder = _fetch_config(repo, INDEX)
    return convert.read_config(folder), convert.shard_names(folder, repo.files)


def _fetch_config(repo: Repo, *more: str) -> Path:
    if "config.json" not in repo.files:
        raise InvalidModelError(f"{repo.id} has no config.json; is it a checkpoint?")
    return fetch_small(repo, ["config.json", *more])


def needs(
    repo: Repo,
    config: "convert.LlamaConfig",
    shards: list[str],
    quantization: "convert.Quantization",
    *,
    keep: bool,
    size: int | None = None,
) -> Needs:
    """What the conversion takes; keep tells that the weights stay in the Hub's cache, and size what
    the file is made to take."""
    names = (*convert.SMALL_FILES, *shards)
    target = size or sum(tensor.nbytes for tensor in convert.plan_tensors(config, quantization))
    values = config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    context = config.max_position_embeddings
    kept = names if keep else convert.SMALL_FILES
    return needs_of(repo, names, kept, target, context, values)


def needs_of(
    repo: Repo,
    names: Sequence[str],
    kept: Sequence[str],
    target: int,
    context: int,
    values: int,
) -> Needs:
    """What fetching names takes, some of them kept in the Hub's cache, and the target of so many
    bytes made of them; a token in its KV cache has so many keys' values."""
    new = repo.files.keys() - repo.cached.keys()
    missing = [repo.files[name] for name in names if name in new]
    fetched = sum(file.size for file in missing)
    cached = sum(file.size for file in missing if file.name in kept)
    running = target + min(context, CONTEXT) * values * KV_BYTES
    return Needs(fetched, len(missing), cached, target, running)


def check_disk(needed: Needs, target: Path) -> None:
    """Raises DoesNotFitError that says what is short, for the GGUF file or the Hub's cache."""
    cache = Path(constants.HF_HUB_CACHE)
    cache = next(place for place in (cache, *cache.parents) if place.exists())
    places = {target.parent: needed.target - convert.space_taken(target)}
    if cache.stat().st_dev == target.parent.stat().st_dev:
        places[target.parent] += needed.cached
    else:
        places[cache] = needed.cached
    for folder, nbytes in places.items():
        _check_room(folder, nbytes)


def _check_room(folder: Path, nbytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < nbytes:
        raise DoesNotFitError(
            f"{folder} has {count(free, 'B')} free, and {count(nbytes, 'B')} are needed there: "
            f"{count(nbytes - free, 'B')} short; free some, or name another place "
            "(-o, LLAMACLI_HOME, HF_HOME)"
        )


@contextmanager
def open_checkpoint(
    repo: Repo, config: "convert.LlamaConfig", shards: list[str], *, keep: bool
) -> "Iterator[convert.Checkpoint]":
    """The checkpoint with its weights in the Hub's cache, or on the Hub where they aren't cached.

    keep fetches them into the cache first. Raises CheckpointError, NotFoundError.
    """
    folder = fetch_small(repo, convert.SMALL_FILES)
    cached = dict(repo.cached)
    if keep and not all(name in cached for name in shards):
        download(repo, shards)
        cached |= {name: folder / name for name in shards}
    with http_client() as client:
        files: list[convert.WeightFile] = [
            convert.LocalFile(cached[name]) if name in cached else remote_file(repo, name, client)
            for name in shards
        ]
        yield convert.describe_checkpoint(folder, repo.name, config, files)


def has_adapter(repo: Repo) -> bool:
    """Whether a repo is an adapter's and no model's."""
    return CONFIG in repo.files and not {SINGLE, INDEX} & repo.files.keys()


def fetch_adapter(repo: Repo) -> Path:
    """The folder with the adapter's files. Raises InvalidModelError, NotFoundError."""
    if WEIGHTS not in repo.files:
        raise InvalidModelError(f"{repo.id} has no {WEIGHTS}; pickles aren't read")
    folder = fetch_small(repo, [CONFIG, *(n for n in ADAPTER_FILES if n not in (CONFIG, WEIGHTS))])
    if WEIGHTS not in repo.cached:
        _check_room(folder, repo.files[WEIGHTS].size)
        download(repo, [WEIGHTS])
    return folder


def fetch_config(hub_id: str, revision: str | None, token: str | None) -> Path:
    """The folder with a model's config.json, from the Hub's cache where that has it.

    Raises InvalidModelError, NotFoundError.
    """
    cached = try_to_load_from_cache(hub_id, "config.json", revision=revision)
    if isinstance(cached, str):
        return Path(cached).parent
    notice(f"the config of the base {printable(hub_id)} is fetched from the Hub")
    return _fetch_config(look_up(hub_id, revision, token))
