"""What the runtime asks the Hub: which files a model has, the small ones, and where the large lie.

huggingface_hub keeps its own ways: HF_HOME and the cache in it, HF_TOKEN and what `hf auth login`
stored, HF_ENDPOINT, HF_HUB_OFFLINE. A revision is pinned to its commit at the first look.
"""

import logging
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import huggingface_hub as hf
from huggingface_hub.errors import HfHubHTTPError

import convert
from llamacli.errors import InvalidModelError, NotFoundError, UsageError
from llamacli.hub.index import (
    HubFile,
    certificates,
    fetch_index,
    hub_errors,
    offline_text,
    retry_after,
)
from llamacli.models import REVISION

TOKEN = re.compile("[!-~]+")
MAX_SMALL = 256 << 20  # bytes of a file that is not weights


@dataclass(frozen=True)
class Repo:
    """A model's repo on the Hub at one commit, and what the Hub's cache has of it.

    Where the Hub was out of reach, files are those of the cache alone.
    """

    id: str
    revision: str
    commit: str
    files: Mapping[str, HubFile]
    cached: Mapping[str, Path]
    token: str | None = field(default=None, repr=False)
    out_of_reach: bool = False

    @property
    def name(self) -> str:
        return self.id.rpartition("/")[2]

    @property
    def origin(self) -> str:
        return f"{self.id}@{self.commit}"


def look_up(repo: str, revision: str | None = None, token: str | None = None) -> Repo:
    """The files of a model on the Hub, at a branch, tag or commit (main by default).

    Where HF_HUB_OFFLINE is set, or the network fails, the cache answers for the Hub. Raises
    NotFoundError that says why and what to do, InvalidModelError for an index that makes no sense,
    UsageError for a token that can't be one.
    """
    if token is not None and not TOKEN.fullmatch(token):
        raise UsageError("the token holds other characters than an access token does")

    hf.utils.disable_progress_bars()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    revision = revision or "main"
    _check_id(repo, revision)
    if hf.constants.is_offline_mode():
        if (cached := _from_cache(repo, revision)) is None:
            raise NotFoundError(offline_text(repo))
        return cached
    try:
        commit, files = fetch_index(repo, revision, token)
    except NotFoundError as error:
        unreachable = isinstance(error.__cause__, httpx2.TransportError)
        if unreachable and (cached := _from_cache(repo, revision)) is not None:
            return cached
        raise
    return Repo(repo, revision, commit, files, _cached(repo, commit, files), token)


def fetch_small(repo: Repo, names: Iterable[str]) -> Path:
    """Small files into the Hub's cache, where they aren't yet; the folder with them.

    The first of them must be there, others may be missing. Raises NotFoundError.
    """
    paths = [_fetch(repo, name) for name in names if name in repo.files]
    return paths[0].parent


def _fetch(repo: Repo, name: str) -> Path:
    if name in repo.cached:
        return repo.cached[name]
    if repo.files[name].size > MAX_SMALL:
        raise InvalidModelError(f"{name} of {repo.id} is absurdly large")
    # Asked for by its revision, for the cache to know which commit that is when offline.
    with hub_errors(repo.id):
        path = Path(hf.hf_hub_download(repo.id, name, revision=repo.revision, token=repo.token))
    if path.parents[name.count("/")].name != repo.commit:
        raise NotFoundError(f"{repo.id} has just been changed; call again")
    return path


def download(repo: Repo, names: list[str]) -> None:
    """Files into the Hub's cache the classical way, with huggingface_hub's progress bars."""
    if sys.stderr.isatty():
        hf.utils.enable_progress_bars()
    with hub_errors(repo.id):
        hf.snapshot_download(repo.id, revision=repo.commit, token=repo.token, allow_patterns=names)
    hf.utils.disable_progress_bars()


def remote_file(repo: Repo, name: str, client: "httpx2.Client") -> "convert.RemoteFile":
    """A file of the repo, to be read by byte range."""
    file = repo.files[name]
    return convert.RemoteFile(Path(name).name, file.size, file.etag, _locator(repo, file), client)


def http_client() -> "httpx2.Client":
    """A client for byte ranges: many connections kept open, huggingface_hub's own timeout."""
    with hub_errors("a file"):
        return httpx2.Client(
            follow_redirects=True,
            timeout=hf.constants.HF_HUB_DOWNLOAD_TIMEOUT,
            limits=httpx2.Limits(max_connections=32, max_keepalive_connections=32),
            verify=certificates(),
        )


def _locator(repo: Repo, file: HubFile) -> "Callable[[], convert.Location]":
    """Where the file's bytes are served, from the Hub's answer to HEAD; the token stays there."""
    url = hf.hf_hub_url(repo.id, file.name, revision=repo.commit)

    def locate() -> convert.Location:
        try:
            with hub_errors(repo.id):
                remote = hf.get_hf_file_metadata(
                    url, token=repo.token, timeout=hf.constants.HF_HUB_ETAG_TIMEOUT
                )
                inside = _origin(remote.location) == _origin(url)
        except NotFoundError as error:
            cause = error.__cause__
            if isinstance(cause, HfHubHTTPError):
                status, asked = cause.response.status_code, retry_after(cause.response.headers)
                if status in convert.BUSY or status >= 500:
                    raise convert.Broken(str(error), wait=asked or 0.0) from error
            elif isinstance(cause, httpx2.TransportError):
                raise convert.Broken(str(error)) from error
            raise convert.SourceError(str(error)) from error
        if remote.size not in (None, file.size) or remote.etag not in (None, file.etag):
            raise convert.CheckpointError(f"{file.name} was changed at {repo.id} while it was read")
        token = repo.token if inside else False
        return convert.Location(
            remote.location, hf.utils.build_hf_headers(token=token, library_name="llamacli")
        )

    return locate


def _origin(address: str) -> object:
    """Whose address it is. Raises ValueError or httpx2.InvalidURL where no server can have it."""
    url = httpx2.URL(address)
    url.host.encode("idna")
    if url.scheme not in ("http", "https"):
        raise ValueError(f"{address!r} is no address of the web")
    return url.origin


def _check_id(repo: str, revision: str) -> None:
    with hub_errors(repo):
        hf.utils.validate_repo_id(repo)
    if not REVISION.fullmatch(revision) or ".." in revision:
        raise NotFoundError(f"{revision!r} is not the name of a branch, tag or commit")


def _cached(repo: str, commit: str, files: Mapping[str, HubFile]) -> dict[str, Path]:
    """Those files that the Hub's cache has whole."""
    paths = {}
    for name in files:
        path = hf.try_to_load_from_cache(repo, name, revision=commit)
        if isinstance(path, str) and Path(path).is_file():
            paths[name] = Path(path)
    return {name: path for name, path in paths.items() if path.stat().st_size == files[name].size}


def _from_cache(repo: str, revision: str) -> Repo | None:
    """A checkpoint or an adapter in the Hub's cache, or None where it isn't there, or not whole."""
    paths = (
        hf.try_to_load_from_cache(repo, n, revision=revision)
        for n in ("config.json", convert.CONFIG)
    )
    path = next((path for path in paths if isinstance(path, str)), None)
    if path is None:
        return None
    folder = Path(path).parent
    try:
        if not (folder / convert.WEIGHTS).is_file():
            convert.shard_names(folder)
    except convert.ConvertError:
        return None
    paths_within = (path for path in sorted(folder.rglob("*")) if path.is_file())
    cached = {path.relative_to(folder).as_posix(): path for path in paths_within}
    files = {name: HubFile(name, p.stat().st_size, "") for name, p in cached.items()}
    return Repo(repo, revision, folder.name, files, cached, out_of_reach=True)
