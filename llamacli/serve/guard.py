"""Who may ask: hosts, origins, keys, and limits, before a request is looked at; a line for each.

And what every route needs: its body, read with limits, and answers in JSON.
"""

import asyncio
import hmac
import ipaddress
import json
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llamacli.serve.faults import Fault
from llamacli.serve.fields import Fields, read_json
from llamacli.serve.metrics import Metrics
from llamacli.terminal import notice, printable, shortened

MAX_BODY = 16 << 20  # bytes; a prompt of a million tokens has 4 MB
# What Docker and Podman call this machine in their containers; nobody else can have such a name.
FROM_CONTAINERS = ("host.docker.internal", "host.containers.internal")
OPEN = ("/health", "/")  # and /page/, without a key: nothing there is anyone's
EVERYTHING: Any = {"allow_methods": ["*"], "allow_headers": ["*"], "allow_private_network": True}
BODY_SECONDS = 30.0  # that a client may take to send a request
LARGE = 1 << 18  # bytes of JSON that are read in a thread of their own


@dataclass(frozen=True)
class Rules:
    """hosts are names by which the server may be called beside IP addresses; origins those that
    --cors lets in, or `*`."""

    hosts: frozenset[str]
    origins: frozenset[str] = frozenset()
    keys: tuple[bytes, ...] = ()
    quiet: bool = False


def own_hosts(host: str) -> frozenset[str]:
    """Names for the machine itself; others in a Host header are DNS rebinding."""
    name = socket.gethostname().lower()
    own = {"localhost", host.lower().rstrip("."), name, name.partition(".")[0], f"{name}.local"}
    return frozenset({*own, *FROM_CONTAINERS})


class Guard:
    """ASGI around the app. Requests by the Unix socket are the user's own: rules are for others."""

    def __init__(self, app: ASGIApp, rules: Rules, metrics: Metrics) -> None:
        self.rules, self.metrics = rules, metrics
        self.app = self._for_pages(app)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started, status = time.perf_counter(), 0
        scope["own"] = scope["server"][1] is None  # by the Unix socket, which has no port
        scope["told"] = []

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app_for(scope)(scope, receive, watched)
        finally:
            self.metrics.requests.labels(str(status)).inc()
            if not self.rules.quiet:
                notice(_line(scope, status, time.perf_counter() - started))

    def _app_for(self, scope: Scope) -> ASGIApp:
        """What answers: pages of origins that are let in may read what is wrong with a key."""
        try:
            if not scope["own"]:
                check(self.rules, scope)
            length = Headers(scope=scope).get("content-length", "0")
            if length.isdecimal() and int(length) > MAX_BODY:
                raise too_large()
        except Fault as fault:
            told = fault_response(fault)
            return told if fault.status == HTTPStatus.FORBIDDEN else self._for_pages(told)
        return self.app

    def _for_pages(self, app: ASGIApp) -> ASGIApp:
        """The same, with the headers by which a browser lets pages of those origins read it."""
        origins = self.rules.origins
        return CORSMiddleware(app, origins, **EVERYTHING) if origins else app


def check(rules: Rules, scope: Scope) -> None:
    """Raises Fault 403 or 401."""
    headers = Headers(scope=scope)
    host = headers.get("host", "")
    if not _known_host(host, rules.hosts):
        raise Fault(403, f"the host {shortened(printable(host))} is not this server's name")
    origin = headers.get("origin")
    if origin is not None and not _known_origin(origin, host, rules.origins):
        raise Fault(403, f"the origin {shortened(printable(origin))} is not let in; see --cors")
    path = scope["path"]
    is_open = path in OPEN or path.startswith("/page/") or scope["method"] == "OPTIONS"
    if rules.keys and not is_open:
        given = _key(headers)
        same = [hmac.compare_digest(given, key) for key in rules.keys]  # each, whatever comes first
        if not any(same):
            problem = "is missing" if not given else "is not one of the server's"
            raise Fault(401, f"the API key {problem}", code="invalid_api_key",
                        headers={"WWW-Authenticate": "Bearer"})  # fmt: skip


def _key(headers: Headers) -> bytes:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    given = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
    return given.encode("latin-1", "replace")


def _known_host(host: str, names: frozenset[str]) -> bool:
    """An address of numbers, or a name of the machine's, with or without a dot at its end (which
    says that it is whole) and a port."""
    try:
        name = (urlsplit(f"//{host}").hostname or "").removesuffix(".")
    except ValueError:
        return False
    with suppress(ValueError):
        ipaddress.ip_address(name)
        return True
    return name in names


def _known_origin(origin: str, host: str, allowed: frozenset[str]) -> bool:
    if "*" in allowed or origin.lower() in allowed:
        return True
    try:
        return urlsplit(origin).netloc.lower() == host.lower() != ""
    except ValueError:
        return False


def too_large() -> Fault:
    return Fault(413, f"the body has more than {MAX_BODY} bytes", headers={"Connection": "close"})


def fault_response(fault: Fault) -> Response:
    return json_response(fault.body(), fault.status, dict(fault.headers))


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """JSON in ASCII: a text that is no Unicode, half a surrogate pair, keeps its escape."""
    return Response(json.dumps(value), status, headers, "application/json")


def _line(scope: Scope, status: int, seconds: float) -> str:
    client = scope.get("client")
    who = client[0] if client else "socket"
    path = shortened(printable(scope["path"]), 80)
    told: Sequence[str] = scope["told"]
    method = printable(scope["method"])[:10]
    return " ".join([who, method, path, str(status), f"{seconds * 1000:.0f} ms", *told])


async def read_body(request: Request) -> Fields:
    """Raises Fault 413 for a large body, 400 for what isn't JSON; TimeoutError."""
    body = bytearray()
    async with asyncio.timeout(BODY_SECONDS):
        async for part in request.stream():
            body += part
            if len(body) > MAX_BODY:
                raise too_large()
    return await asyncio.to_thread(read_json, body) if len(body) > LARGE else read_json(body)
