"""The Hub's index of a model: its commit, and each file's name, size and hash, all checked."""

import json
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from llamacli import __version__
from llamacli.errors import InvalidModelError, NotFoundError
from llamacli.hub.errors import busy_text, hub_errors, retry_after
from llamacli.models import registry

if TYPE_CHECKING:
    import httpx2

COMMIT = re.compile(r"[0-9a-f]{40}")
HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
MAX_INDEX = 32 << 20  # bytes; a file takes some 300
TIMEOUT = 20.0  # seconds without an answer
TRIES = 4  # where the Hub is busy
LONGEST_WAIT = 60.0  # seconds, for which a busy Hub is waited for before anything is fetched


@dataclass(frozen=True)
class HubFile:
    """A file of a repo: its path there, bytes, and its contents' hash.

    etag is what the Hub calls the contents: the SHA-256 of a large file, git's hash of a small one.
    """

    name: str
    size: int
    etag: str

    @property
    def sha256(self) -> str | None:
        return self.etag if len(self.etag) == 64 else None


def fetch_index(repo: str, revision: str, token: str | None) -> tuple[str, dict[str, HubFile]]:
    """The commit that a revision is, and the files by their paths there.

    Raises NotFoundError that says why and what to do, InvalidModelError for an index that makes
    no sense.
    """
    path = f"/api/models/{repo}/revision/{quote(revision, safe='')}?blobs=true"
    with hub_errors(repo, near=lambda: _near(repo)):
        index = _get_json(path, repo, token)
    return _parse(index, repo)


def _get_json(path: str, repo: str, token: str | None) -> Any:
    """The Hub's answer, at most MAX_INDEX bytes of it; one that is busy is asked again."""
    from huggingface_hub import constants, get_session
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

    url = constants.ENDPOINT + path
    headers = build_hf_headers(token=token, library_name="llamacli", library_version=__version__)
    for attempt in range(1, TRIES + 1):
        with get_session().stream("GET", url, headers=headers, timeout=TIMEOUT) as response:
            if response.status_code == 429 or response.status_code >= 500:
                wait = retry_after(response.headers)
                if wait is not None and wait > LONGEST_WAIT:
                    raise NotFoundError(busy_text(repo, wait))
                if attempt < TRIES:
                    time.sleep(wait if wait is not None else 0.5 * 2**attempt)
                    continue
            body = _read_bounded(response)
            hf_raise_for_status(response)
        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            raise InvalidModelError(f"{constants.ENDPOINT} answers with no JSON") from None
    raise AssertionError("the last attempt returns or raises")


def _read_bounded(response: "httpx2.Response") -> bytes:
    body = bytearray()
    for chunk in response.iter_bytes():
        body += chunk
        if len(body) > MAX_INDEX:
            raise InvalidModelError(f"the Hub's answer is absurdly large, over {MAX_INDEX} bytes")
    return bytes(body)


def _near(repo: str) -> list[str]:
    """Ids that may have been meant: known models', and what the Hub's search finds."""
    known = [m.source for m in registry.models().values() if registry.HUB_ID.fullmatch(m.source)]
    search = quote(repo.rpartition("/")[2], safe="")
    try:
        with hub_errors(repo):
            entries = _get_json(f"/api/models?search={search}&limit=20", repo, None)
    except (NotFoundError, InvalidModelError):
        return known
    ids = [entry.get("id") for entry in entries if isinstance(entry, dict)] if entries else []
    return known + [i for i in ids if isinstance(i, str) and registry.HUB_ID.fullmatch(i)]


def _parse(listing: Any, repo: str) -> tuple[str, dict[str, HubFile]]:
    """The commit and the files of an index. Raises InvalidModelError where it makes no sense."""
    commit = listing.get("sha") if isinstance(listing, dict) else None
    siblings = listing.get("siblings") if isinstance(listing, dict) else None
    if not isinstance(commit, str) or not COMMIT.fullmatch(commit):
        raise InvalidModelError(f"the Hub's index of {repo} names no commit")
    if not isinstance(siblings, list):
        raise InvalidModelError(f"the Hub's index of {repo} lists no files")
    files = [_file(entry, repo) for entry in siblings]
    return commit, {file.name: file for file in files}


def _file(entry: Any, repo: str) -> HubFile:
    name: Any = entry.get("rfilename") if isinstance(entry, dict) else None
    if not isinstance(name, str) or not _is_harmless(name):
        raise InvalidModelError(f"the Hub's index of {repo} has a file with the name {name!r}")
    lfs: Any = entry.get("lfs")
    large = isinstance(lfs, dict)
    size: Any = lfs.get("size") if large else entry.get("size")
    etag: Any = lfs.get("sha256") if large else entry.get("blobId")
    if type(size) is not int or not 0 <= size < 1 << 50:
        raise InvalidModelError(f"the Hub's index of {repo} gives {name!r} the size {size!r}")
    if not isinstance(etag, str) or not HASH.fullmatch(etag):
        raise InvalidModelError(f"the Hub's index of {repo} gives {name!r} the hash {etag!r}")
    return HubFile(name, size, etag)


def _is_harmless(name: str) -> bool:
    """A relative path that stays where it is put, and prints as one line."""
    parts = name.split("/")
    return (
        len(name) < 1000
        and name.isprintable()
        and "\\" not in name
        and not any(part in ("", ".", "..") for part in parts)
    )
