"""The index of a model is checked before anything of it is believed; a busy Hub is waited for."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpcore2
import pytest
from huggingface_hub import close_session, constants, get_session

from llamacli.errors import InvalidModelError, LlamacliError, NotFoundError
from llamacli.hub import index as hub_index
from llamacli.hub.index import HubFile, fetch_index
from llamacli.hub.repo import http_client
from tests.standins.hub import Hub, HubRepo, git_hash, serve, sha256

REPO = "owner/model"
LIMITED = (429, {"Retry-After": "3600"}, b"")
BUSY = (503, {"Retry-After": "0"}, b"")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serve() as running:
        running.repos[REPO] = HubRepo({"config.json": b"{}", "sub/model.safetensors": b"weights"})
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        yield running


def fetch() -> tuple[str, dict[str, HubFile]]:
    return fetch_index(REPO, "main", None)


def test_files_sizes_and_hashes(hub: Hub) -> None:
    small = HubFile("config.json", 2, git_hash(b"{}"))
    large = HubFile("sub/model.safetensors", 7, sha256(b"weights"))
    assert fetch() == (hub.repos[REPO].commit, {file.name: file for file in (small, large)})
    assert small.sha256 is None and large.sha256 == sha256(b"weights")


def test_a_busy_hub_is_waited_for(hub: Hub) -> None:
    hub.api_answers += [(429, {"Retry-After": "0"}, b""), BUSY, BUSY]
    assert fetch()[0] == hub.repos[REPO].commit


def test_pauses_are_those_asked_for_or_grow(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(hub_index.time, "sleep", waits.append)
    hub.api_answers += [(429, {"Retry-After": "9"}, b""), (500, {}, b""), (502, {}, b"")]
    fetch()
    assert waits == [9.0, 2.0, 4.0]


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ([LIMITED], "try again in 60 minutes"),
        ([(429, {"RateLimit": '"api";r=0;t=300'}, b"")], "try again in 5 minutes"),
        ([BUSY] * 4, "HTTP 503"),
        ([(403, {}, b"")], "gives no right to read"),
        ([(404, {"X-Error-Code": "RepoNotFound"}, b"")], "no model owner/model on the Hub"),
        ([(404, {"X-Error-Code": "RevisionNotFound"}, b"")], "no such revision"),
        ([(403, {"X-Error-Message": "Access to this resource is disabled."}, b"")], "disabled"),
    ],
)
def test_refusals_are_told(hub: Hub, answers: list[Any], words: str) -> None:
    hub.api_answers += answers
    with pytest.raises(NotFoundError, match=words):
        fetch()


def index(**changes: Any) -> Callable[[Hub], None]:
    def change(hub: Hub) -> None:
        hub.edit_index = lambda served: {**served, **changes}

    return change


def file_entry(**entry: Any) -> Callable[[Hub], None]:
    return index(siblings=[{"rfilename": "config.json", "size": 5, "blobId": "a" * 40, **entry}])


def body(raw: bytes) -> Callable[[Hub], None]:
    return lambda hub: hub.api_answers.append((200, {}, raw))


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (body(b"<html>"), "no JSON"),
        (body(b"\xff\xfe"), "no JSON"),
        (body(b"[" * 100_000), "no JSON"),
        (body(b"[]"), "makes no sense"),
        (body(b"{}"), "makes no sense"),
        (body(b" " * (hub_index.MAX_ANSWER + 1)), "absurdly large"),
        (index(sha="../../etc"), "no commit"),
        (index(sha=None), "no commit"),
        (index(siblings={}), "lists no files"),
        (index(siblings=["config.json"]), "makes no sense"),
        (file_entry(rfilename=None), "name None"),
        (file_entry(rfilename="../../.bashrc"), r"'\.\./\.\./\.bashrc'"),
        (file_entry(rfilename="a/../b"), "'a/../b'"),
        (file_entry(rfilename="/etc/passwd"), "'/etc/passwd'"),
        (file_entry(rfilename="C:\\\\x"), "'C:"),
        (file_entry(rfilename=""), "''"),
        (file_entry(rfilename="a\x1b[31m"), r"'a\\x1b\[31m'"),
        (file_entry(rfilename="a\nb"), r"'a\\nb'"),
        (file_entry(size=-1), "-1"),
        (file_entry(size=True), "True"),
        (file_entry(size="5"), "'5'"),
        (file_entry(size=1 << 60), "size"),
        (file_entry(blobId="../x"), "'../x'"),
        (file_entry(lfs={"sha256": "x", "size": 3, "pointerSize": 9}), "'x'"),
        (file_entry(lfs={"sha256": "a" * 64}), "makes no sense"),
    ],
)
def test_an_index_that_makes_no_sense_is_refused(
    hub: Hub, fault: Callable[[Hub], None], words: str
) -> None:
    fault(hub)
    with pytest.raises(InvalidModelError, match=words) as caught:
        fetch()
    assert str(caught.value).isprintable()


def test_whatever_the_index_is_the_error_is_ours(hub: Hub) -> None:
    for value in (None, 1, "x", {"siblings": [None]}, {"sha": "a" * 40, "siblings": [{"lfs": []}]}):
        hub.edit_index = lambda _, value=value: value  # type: ignore[misc]
        with pytest.raises(LlamacliError):
            fetch()


@pytest.mark.parametrize("raw", [b"7", b'{"id": 1}', b'[{"id": 7}, 8]', b"null", b"<html>"])
def test_a_search_that_makes_no_sense_gives_no_names(hub: Hub, raw: bytes) -> None:
    hub.api_answers += [(404, {"X-Error-Code": "RepoNotFound"}, b""), (200, {}, raw)]
    with pytest.raises(NotFoundError, match="no model owner/model on the Hub"):
        fetch()


def forget_clients() -> None:
    """A client asks the environment once."""
    close_session()
    for once in (hub_index.certificates, hub_index.use_client):
        once.cache_clear()


def test_certificates_are_read_once(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """All clients trust the same ones; reading them takes longer than a request."""
    read: list[object] = []
    kept = httpcore2.default_ssl_context

    def counted(**options: bool) -> object:
        read.append(options)
        return kept(**options)

    forget_clients()
    get_session()  # the library's own first client, whose hooks ours take, reads them by itself
    monkeypatch.setattr(httpcore2, "default_ssl_context", counted)
    fetch()
    http_client().close()
    assert len(read) == 1


def test_certificates_that_can_not_be_read_are_told(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was told of the Hub's cache."""
    for wrong in (tmp_path / "missing", Path(__file__)):
        with monkeypatch.context() as patch:
            patch.setenv("SSL_CERT_FILE", str(wrong))
            for ask in (fetch, http_client):
                forget_clients()
                with pytest.raises(NotFoundError, match=r"certificates .* SSL_CERT_FILE"):
                    ask()
    forget_clients()


def test_a_proxy_that_can_not_be_used_is_told(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """httpx2 knows no SOCKS by itself."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1")
    forget_clients()
    try:
        for ask in (fetch, http_client):
            with pytest.raises(NotFoundError, match="can't be reached"):
                ask()
    finally:
        forget_clients()
