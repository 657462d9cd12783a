"""What goes wrong with the Hub, each as one line that says what to do."""

import difflib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import httpx2
from huggingface_hub import constants, errors
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError
from huggingface_hub.utils import parse_ratelimit_headers

from llamacli.errors import NotFoundError, OutputError

LOGIN = "hf auth login"


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


def busy_text(repo: str, seconds: float | None) -> str:
    when = f"in {_span(seconds)}" if seconds else "later"
    return (
        f"the Hub limits the rate of requests, and this one for {repo} is beyond; try again {when} "
        f"(logged in, more are allowed: {LOGIN})"
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
    if isinstance(error, errors.FileMetadataError):
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
        return f"the token gives no right to read {repo}; see {_page(repo)}"
    if status == 429:
        return busy_text(repo, retry_after(headers))
    return f"{constants.ENDPOINT} answers HTTP {status} for {repo}; try again later"


def _gated(repo: str, error: "GatedRepoError") -> str:
    logged_in = "Authorization" in error.response.request.headers
    then = "with this account, and wait for it" if logged_in else f"then log in: {LOGIN}"
    return f"{repo} is gated; ask for access at {_page(repo)}, {then}"


def _missing(repo: str, names: list[str]) -> str:
    by_lower = {name.lower(): name for name in names}
    meant = [by_lower[n] for n in difflib.get_close_matches(repo.lower(), by_lower, 3, 0.6)]
    hint = (
        f"did you mean {' or '.join(meant)}?" if meant else f"look for it at {constants.ENDPOINT}"
    )
    return f"there is no model {repo} on the Hub, or it is private (then: {LOGIN}); {hint}"


def _page(repo: str) -> str:
    return f"{constants.ENDPOINT}/{repo}"


def _span(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} minutes"
