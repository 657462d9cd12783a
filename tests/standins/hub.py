"""A stand-in for the Hub and its CDN on two local ports, with faults to be switched on.

It speaks what huggingface_hub asks for: a model's index and tree, search, resolve with HEAD and
GET, ranges, redirects of large files to the CDN by addresses that may expire.
"""

import hashlib
import json
import mmap
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.standins.waiting import PATIENCE

Contents = bytes | mmap.mmap
LARGE = (".safetensors", ".gguf", ".bin")
TOKEN = "hf_stand_in"


@dataclass
class HubRepo:
    """files are the contents by path; gated and private want TOKEN."""

    files: dict[str, Contents]
    gated: bool = False
    private: bool = False

    @property
    def commit(self) -> str:
        whole = sorted((name, git_hash(data)) for name, data in self.files.items())
        return hashlib.sha1(json.dumps(whole).encode()).hexdigest()

    def entry(self, name: str) -> dict[str, Any]:
        data = self.files[name]
        entry = {"size": len(data), "blob": git_hash(data), "sha256": None}
        if name.endswith(LARGE):
            entry["sha256"] = sha256(data)
        return entry


@dataclass(frozen=True)
class Cut:
    """What happens to one answer of the CDN: a status instead, or its end after so many bytes.

    gate is waited for after those bytes, before the connection ends.
    """

    after: int | None = None
    status: int | None = None
    headers: tuple[tuple[str, str], ...] = ()
    gate: threading.Event | None = None
    drip: bool = False


@dataclass
class Hub:
    """The state of the stand-in; requests are (server, method, path, headers) as they came.

    api_answers and large_answers are given once each, in order, in place of the index and of large
    files' addresses. cuts says what happens to the CDN's answers, by their number and the Range
    asked for; tamper gives what the CDN has in place of a file's contents.
    """

    repos: dict[str, HubRepo] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)
    requests: list[tuple[str, str, str, dict[str, str]]] = field(default_factory=list)
    api_answers: list[tuple[int, dict[str, str], bytes]] = field(default_factory=list)
    large_answers: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    cuts: Callable[[int, str], Cut | None] = lambda number, asked: None
    expire_after: int | None = None
    edit_index: Callable[[dict[str, Any]], Any] = lambda index: index
    tamper: Callable[[Contents], Contents] = lambda data: data
    url: str = ""
    cdn_url: str = ""
    blobs: dict[str, tuple[str, Contents]] = field(default_factory=dict)
    uses: dict[str, int] = field(default_factory=dict)
    served: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def cdn_requests(self) -> list[tuple[str, str, str, dict[str, str]]]:
        return [request for request in self.requests if request[0] == "cdn"]

    def fetched(self, name: str) -> list[str]:
        """The Range headers that the CDN was asked for a file's bytes by."""
        return [r[3].get("range", "") for r in self.cdn_requests() if f"name={name}" in r[2]]


@cache
def git_hash(data: Contents) -> str:
    hashed = hashlib.sha1(b"blob %d\0" % len(data))
    hashed.update(data)
    return hashed.hexdigest()


@cache
def sha256(data: Contents) -> str:
    return hashlib.sha256(data).hexdigest()


def read_repo(folder: Path) -> HubRepo:
    """A repo with a folder's files, the large ones mapped."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return HubRepo({path.relative_to(folder).as_posix(): _contents(path) for path in paths})


def _contents(path: Path) -> Contents:
    if path.stat().st_size < 1 << 20:
        return path.read_bytes()
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


@contextmanager
def serve() -> Iterator[Hub]:
    """The two servers, for as long as the block runs."""
    hub = Hub()
    servers = []
    for name, handler in (("hub", HubHandler), ("cdn", CdnHandler)):
        bound = type(handler.__name__, (handler,), {"hub": hub, "server_name": name})
        servers.append(Server(("127.0.0.1", 0), bound))
        threading.Thread(target=servers[-1].serve_forever, args=(0.01,), daemon=True).start()
    hub.url, hub.cdn_url = (f"http://127.0.0.1:{server.server_port}" for server in servers)
    try:
        yield hub
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that leave are what the tests are about."""


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    server_name: str
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002
        pass

    def note(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        headers["(port)"] = str(self.client_address[1])  # the same for requests on one connection
        with self.hub.lock:
            self.hub.requests.append((self.server_name, self.command, self.path, headers))

    def answer(
        self, status: int, body: Contents = b"", headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            with suppress(OSError):
                self.wfile.write(body)

    def part(self, data: Contents) -> tuple[int, Contents, dict[str, str]]:
        """Status, body and headers for the range that was asked for."""
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not match:
            return 200, data, {}
        first, last = int(match[1]), min(int(match[2] or len(data) - 1), len(data) - 1)
        if first >= len(data):
            return 416, b"", {"Content-Range": f"bytes */{len(data)}"}
        return 206, data[first : last + 1], {"Content-Range": f"bytes {first}-{last}/{len(data)}"}


class HubHandler(Handler):
    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.note()
        url = urlsplit(self.path)
        path = unquote(url.path)
        if path.startswith("/api/models"):
            with self.hub.lock:
                said = self.hub.api_answers.pop(0) if self.hub.api_answers else None
            if said is not None:
                status, headers, body = said
                self.answer(status, body, headers)
                return
        for old, new in self.hub.renamed.items():
            if f"/{old}/" in path:
                self.answer(307, headers={"Location": self.path.replace(old, new)})
                return
        if path == "/api/models":
            wanted = parse_qs(url.query)["search"][0].lower()
            models = [{"id": name} for name in self.hub.repos if wanted[:6] in name.lower()]
            self.answer(200, json.dumps(models).encode())
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/(revision|tree)/(.+)", path):
            self.index(match[1], match[2], match[3])
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self.resolve(match[1], match[2], match[3])
        else:
            self.answer(404)

    def repo(self, name: str, revision: str, *, reading: bool) -> HubRepo | None:
        """The repo, or None where the answer has been that there is none to be had."""
        repo = self.hub.repos.get(name)
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in (TOKEN, "hf_no_rights"):
            said = {"X-Error-Message": "Invalid credentials in Authorization header"}
            self.answer(401, headers=said)
        elif repo is None or (repo.private and token != TOKEN):
            self.answer(404 if token else 401, headers={"X-Error-Code": "RepoNotFound"})
        elif repo.gated and reading and token != TOKEN:
            self.answer(403 if token else 401, headers={"X-Error-Code": "GatedRepo"})
        elif revision not in ("main", repo.commit):
            self.answer(404, headers={"X-Error-Code": "RevisionNotFound"})
        else:
            return repo
        return None

    def index(self, name: str, kind: str, revision: str) -> None:
        repo = self.repo(name, revision, reading=False)
        if repo is None:
            return
        entries = {path: repo.entry(path) for path in repo.files}
        value: Any
        if kind == "tree":
            value = [
                {
                    "type": "file",
                    "path": path,
                    "size": e["size"],
                    "oid": e["blob"],
                    **({"lfs": large(e)} if e["sha256"] else {}),
                }
                for path, e in entries.items()
            ]
        else:
            siblings = [
                {
                    "rfilename": path,
                    "size": e["size"],
                    "blobId": e["blob"],
                    **({"lfs": large(e)} if e["sha256"] else {}),
                }
                for path, e in entries.items()
            ]
            value = self.hub.edit_index({"id": name, "sha": repo.commit, "siblings": siblings})
        self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def resolve(self, name: str, revision: str, path: str) -> None:
        repo = self.repo(name, revision, reading=True)
        if repo is None:
            return
        headers = {"X-Repo-Commit": repo.commit}
        if path not in repo.files:
            self.answer(404, headers={**headers, "X-Error-Code": "EntryNotFound"})
            return
        data, entry = repo.files[path], repo.entry(path)
        if entry["sha256"] is None:
            status, body, more = self.part(data)
            self.answer(status, body, {**headers, **more, "ETag": f'"{entry["blob"]}"'})
            return
        with self.hub.lock:
            said = self.hub.large_answers.pop(0) if self.hub.large_answers else None
        if said is not None:
            self.answer(said[0], headers=said[1])
            return
        with self.hub.lock:
            signature = f"{len(self.hub.blobs)}"
            self.hub.blobs[signature] = (path, self.hub.tamper(data))
        headers |= {
            "Location": f"{self.hub.cdn_url}/blob?name={path}&signature={signature}",
            "X-Linked-Etag": f'"{entry["sha256"]}"',
            "X-Linked-Size": str(len(data)),
        }
        self.answer(302, headers=headers)


class CdnHandler(Handler):
    def do_GET(self) -> None:
        self.note()
        query = parse_qs(urlsplit(self.path).query)
        signature = query["signature"][0]
        _, data = self.hub.blobs[signature]
        with self.hub.lock:
            self.hub.served += 1
            number = self.hub.served
            self.hub.uses[signature] = self.hub.uses.get(signature, 0) + 1
            used = self.hub.uses[signature]
        if self.hub.expire_after is not None and used > self.hub.expire_after:
            self.answer(403)
            return
        cut = self.hub.cuts(number, self.headers.get("Range", ""))
        if cut is not None and cut.status is not None:
            self.answer(cut.status, headers=dict(cut.headers))
            return
        status, body, headers = self.part(data)
        headers["ETag"] = f'"{sha256(data)[:32]}"'
        if cut is None:
            self.answer(status, body, headers)
        else:
            self.cut_short(status, body, headers, cut)

    def cut_short(self, status: int, body: Contents, headers: dict[str, str], cut: Cut) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        with suppress(OSError):
            for byte in range(len(body)) if cut.drip else ():
                self.wfile.write(body[byte : byte + 1])
                self.wfile.flush()
            if not cut.drip:
                self.wfile.write(body[: cut.after])
                self.wfile.flush()
            if cut.gate is not None:
                cut.gate.wait(PATIENCE)
            self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True


def large(entry: dict[str, Any]) -> dict[str, Any]:
    return {
        "sha256": entry["sha256"],
        "size": entry["size"],
        "pointerSize": 130,
        "oid": entry["sha256"],
    }
