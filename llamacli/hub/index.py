"""The Hub's index of a model: its commit, and each file's name, size and hash, all checked.

And what goes wrong with the Hub, each as one line that says what to do.
"""

import difflib
import json
import re
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import httpx2
from huggingface_hub import HfApi, ModelInfo, constants, errors, get_session, set_client_factory
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError
from huggingface_hub.utils import parse_ratelimit_headers

from llamacli import __version__
from llamacli.errors import InvalidModelError, NotFoundError, OutputError
from llamacli.home import possible_name
from llamacli.models import registry
from llamacli.system import WINDOWS

LOGIN = "hf auth login"
MAX_ANSWER = 32 << 20  # bytes; the index has some 300 a file
TIMEOUT = 20.0  # seconds without an answer
TRIES = 4  # where the Hub is busy
NEAR = 20  # names that the Hub's search gives
LONGEST_WAIT = 60.0  # seconds, for which a busy Hub is waited for before anything is fetched
OF_THE_BODY = {"content-encoding", "content-length", "transfer-encoding"}
COMMIT = re.compile(r"[0-9a-f]{40}")
HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


@contextmanager
def hub_errors(repo: str, *, near: Callable[[], list[str]] = list) -> Iterator[None]:
    """Errors of huggingface_hub and HTTP about repo as NotFoundError, its cache's as OutputError.

    near gives names that may have been meant; it is called only where repo isn't there.
    """
    try:
        yield
    except errors.LocalEntryNotFoundError as error:  # it stands for what kept from looking
        raise NotFoundError(_text(repo, error.__cause__ or error, near)) from error
    except (
        *(errors.HfHubHTTPError, errors.OfflineModeIsEnabled, errors.FileMetadataError),
        *(errors.HFValidationError, httpx2.HTTPError, httpx2.InvalidURL),
        ValueError,  # of an address that is none, to which an answer redirects
        ImportError,  # of what a SOCKS proxy needs
    ) as error:
        raise NotFoundError(_text(repo, error, near)) from error
    except OSError as error:
        if error.errno is None:  # huggingface_hub's own, such as a file that arrived cut
            raise NotFoundError(
                f"{repo} can't be fetched: {' '.join(str(error).split())}"
            ) from error
        raise OutputError(
            f"the Hub's cache can't be used, {error.filename}: {error.strerror}; look at HF_HOME"
        ) from error


def offline_text(repo: str) -> str:
    return (
        f"{repo} is not whole in the Hub's cache, and HF_HUB_OFFLINE is set; "
        "unset it to fetch what is missing"
    )


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks to wait, by Retry-After or the Hub's own header."""
    value = headers.get("Retry-After", "").strip()
    if value.isdecimal():
        return float(value)
    limit = parse_ratelimit_headers(headers)
    return float(limit.reset_in_seconds) if limit is not None and limit.remaining == 0 else None


def _text(repo: str, error: BaseException, near: Callable[[], list[str]]) -> str:
    host = constants.ENDPOINT
    if isinstance(error, errors.OfflineModeIsEnabled):
        return offline_text(repo)
    if isinstance(error, errors.GatedRepoError):
        return _gated(repo, error)
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{repo} has no such revision; a branch, a tag or a commit is meant"
    if isinstance(error, errors.EntryNotFoundError):
        return f"{repo} has no such file"
    if isinstance(error, errors.DisabledRepoError):
        return f"{repo} has been disabled on the Hub"
    if isinstance(error, errors.HFValidationError):
        return f"{repo} can't be the name of a model on the Hub"
    if isinstance(error, errors.HfHubHTTPError):
        return _status(repo, error, near)
    if isinstance(error, errors.FileMetadataError | ValueError):
        return f"{host} doesn't answer as the Hub does; look at HF_ENDPOINT and any proxy"
    reason = " ".join(str(error).split()) or type(error).__name__
    return f"{host} can't be reached: {reason}; look at the network, or at HF_ENDPOINT"


def _status(repo: str, error: "HfHubHTTPError", near: Callable[[], list[str]]) -> str:
    status, headers = error.response.status_code, error.response.headers
    if headers.get("X-Error-Message") == "Invalid credentials in Authorization header":
        return f"the Hub doesn't know the token; log in again ({LOGIN}) or give another --token"
    if status in (401, 404) or isinstance(error, RepositoryNotFoundError):
        return _missing(repo, near())
    if status == 403:
        return f"the token gives no right to read {repo}; see {constants.ENDPOINT}/{repo}"
    if status == 429:
        seconds = retry_after(headers)
        when = f"in {_span(seconds)}" if seconds else "later"
        return (
            f"the Hub limits the rate of requests, and this one for {repo} is beyond; "
            f"try again {when} (logged in, more are allowed: {LOGIN})"
        )
    return f"{constants.ENDPOINT} answers HTTP {status} for {repo}; try again later"


def _gated(repo: str, error: "GatedRepoError") -> str:
    logged_in = "Authorization" in error.response.request.headers
    then = "with this account, and wait for it" if logged_in else f"then log in: {LOGIN}"
    return f"{repo} is gated; ask for access at {constants.ENDPOINT}/{repo}, {then}"


def _missing(repo: str, names: list[str]) -> str:
    by_lower = {name.lower(): name for name in names}
    meant = [by_lower[n] for n in difflib.get_close_matches(repo.lower(), by_lower, 3, 0.6)]
    hint = (
        f"did you mean {' or '.join(meant)}?" if meant else f"look for it at {constants.ENDPOINT}"
    )
    return f"there is no model {repo} on the Hub, or it is private (then: {LOGIN}); {hint}"


def _span(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} minutes"


@cache
def certificates() -> ssl.SSLContext:
    """What all clients trust: reading it takes longer than a request. Raises NotFoundError."""
    try:
        return httpx2.create_ssl_context()
    except OSError as error:
        fault = f"the certificates can't be read: {error.strerror or error}"
        raise NotFoundError(f"{fault}; look at SSL_CERT_FILE and SSL_CERT_DIR") from error


@cache
def use_client() -> None:
    """Have every call of huggingface_hub go through the client below."""
    trusted = certificates()
    hooks = get_session().event_hooks  # its own, which know HF_HUB_OFFLINE
    set_client_factory(
        lambda: _Client(event_hooks=hooks, follow_redirects=True, timeout=None, verify=trusted)
    )


class _Client(httpx2.Client):
    """Bounds what is asked for and read at once, as the Hub's index; not what is streamed."""

    def send(self, request: httpx2.Request, *, stream: bool = False, **options: Any) -> Any:
        if stream or request.method != "GET":
            return super().send(request, stream=stream, **options)
        request.extensions = {**request.extensions, "timeout": httpx2.Timeout(TIMEOUT).as_dict()}
        for attempt in range(1, TRIES + 1):
            with closing(super().send(request, stream=True, **options)) as response:
                wait = retry_after(response.headers)
                if wait is None:
                    wait = 0.5 * 2**attempt
                busy = response.status_code == 429 or response.status_code >= 500
                if not busy or attempt == TRIES or wait > LONGEST_WAIT:
                    return _whole(response)
            time.sleep(wait)
        raise AssertionError("the last attempt returns")


def _whole(response: httpx2.Response) -> httpx2.Response:
    """The answer with its body, of at most MAX_ANSWER bytes. Raises InvalidModelError."""
    body = bytearray()
    for chunk in response.iter_bytes():
        body += chunk
        if len(body) > MAX_ANSWER:
            raise InvalidModelError(f"the Hub's answer is absurdly large, over {MAX_ANSWER} bytes")
    headers = [(k, v) for k, v in response.headers.multi_items() if k not in OF_THE_BODY]
    return httpx2.Response(
        response.status_code, headers=headers, content=bytes(body), request=response.request
    )


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
    api = HfApi(constants.ENDPOINT, library_name="llamacli", library_version=__version__)
    with hub_errors(repo, near=lambda: _near(repo)):
        use_client()
        try:
            info = api.model_info(repo, revision=revision, files_metadata=True, token=token)
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
            raise InvalidModelError(f"{constants.ENDPOINT} answers with no JSON") from None
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise _fault(repo, f"makes no sense ({type(error).__name__}: {error})") from None
    return _parse(info, repo)


def _near(repo: str) -> list[str]:
    """Ids that may have been meant: known models', and what the Hub's search finds."""
    known = [m.source for m in registry.models().values() if registry.HUB_ID.fullmatch(m.source)]
    params: dict[str, Any] = {"search": repo.rpartition("/")[2], "limit": NEAR}
    try:
        with hub_errors(repo):  # list_models would follow page after page
            answer = get_session().get(f"{constants.ENDPOINT}/api/models", params=params)
            entries = answer.json()
    except (NotFoundError, InvalidModelError, ValueError, RecursionError):
        return known
    listed = entries[:NEAR] if isinstance(entries, list) else []
    ids = [entry.get("id") for entry in listed if isinstance(entry, dict)]
    return known + [i for i in ids if isinstance(i, str) and registry.HUB_ID.fullmatch(i)]


def _parse(info: "ModelInfo", repo: str) -> tuple[str, dict[str, HubFile]]:
    """The commit and the files of an index, but for those that the system can't have.

    Raises InvalidModelError where it makes no sense.
    """
    commit: Any = info.sha
    if not isinstance(commit, str) or not COMMIT.fullmatch(commit):
        raise _fault(repo, "names no commit")
    if not info.siblings:
        raise _fault(repo, "lists no files")
    files = [_file(entry, repo) for entry in info.siblings]
    return commit, {file.name: file for file in files if can_be_here(file.name)}


def _file(entry: Any, repo: str) -> HubFile:
    name, lfs = entry.rfilename, entry.lfs
    size, etag = (entry.size, entry.blob_id) if lfs is None else (lfs.size, lfs.sha256)
    if not isinstance(name, str) or not _is_harmless(name):
        raise _fault(repo, f"has a file with the name {name!r}")
    if type(size) is not int or not 0 <= size < 1 << 50:
        raise _fault(repo, f"gives {name!r} the size {size!r}")
    if not isinstance(etag, str) or not HASH.fullmatch(etag):
        raise _fault(repo, f"gives {name!r} the hash {etag!r}")
    return HubFile(name, size, etag)


def can_be_here(name: str, *, windows: bool = WINDOWS) -> bool:
    """Whether the system has files of that path: on Windows C: in it leads out of every folder."""
    return all(possible_name(part, windows=windows) == part for part in name.split("/"))


def _is_harmless(name: str) -> bool:
    """A relative path that stays where it is put, and prints as one line."""
    parts = name.split("/")
    return (
        len(name) < 1000
        and name.isprintable()
        and "\\" not in name
        and not any(part in ("", ".", "..") for part in parts)
    )


def _fault(repo: str, fault: str) -> InvalidModelError:
    return InvalidModelError(f"the Hub's index of {repo} {fault}")
