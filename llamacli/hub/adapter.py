"""A LoRA adapter on the Hub: small beside a model, and so fetched into the Hub's cache whole."""

import shutil
from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from convert import ADAPTER_FILES, CONFIG, INDEX, SINGLE, WEIGHTS
from llamacli.errors import DoesNotFitError, InvalidModelError
from llamacli.hub.repo import Repo, download, fetch_small, look_up
from llamacli.terminal import count, notice, printable


def has_adapter(repo: Repo) -> bool:
    """Whether a repo is an adapter's and no model's."""
    return CONFIG in repo.files and not {SINGLE, INDEX} & repo.files.keys()


def fetch_adapter(repo: Repo) -> Path:
    """The folder with the adapter's files. Raises InvalidModelError, NotFoundError."""
    if WEIGHTS not in repo.files:
        raise InvalidModelError(f"{repo.id} has no {WEIGHTS}; pickles aren't read")
    folder = fetch_small(repo, [CONFIG, *(n for n in ADAPTER_FILES if n not in (CONFIG, WEIGHTS))])
    if WEIGHTS not in repo.cached:
        size, free = repo.files[WEIGHTS].size, shutil.disk_usage(folder).free
        if free < size:
            fault = (
                f"{WEIGHTS} takes {count(size, 'B')}, and the Hub's cache has {count(free, 'B')}"
            )
            raise DoesNotFitError(f"{fault} free; look at HF_HOME")
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
    repo = look_up(hub_id, revision, token)
    if "config.json" not in repo.files:
        raise InvalidModelError(f"{repo.id} has no config.json; is it a checkpoint?")
    return fetch_small(repo, ["config.json"])
