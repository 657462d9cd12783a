"""Who may ask: hosts, origins, keys, and limits, before a request is looked at; a line for each.

And what every route needs: its body, read with limits, and errors as OpenAI's object.
"""

import asyncio
import hmac
import ipaddress
import json
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llamacli.serve.faults import FAULTS, Fault, as_fault
from llamacli.serve.fields import Fields, read_json
from llamacli.serve.metrics import Metrics
from llamacli.terminal import notice, printable, shortened

MAX_BODY = 16 << 20  # bytes; a prompt of a million tokens has 4 MB
# What Docker and Podman call this machine in their containers; nobody else can have such a name.
FROM_CONTAINERS = ("host.docker.internal", "host.containers.internal")
OPEN = ("/health", "/", "/page/")  # without a key: nothing there is anyone's
BODY_SECONDS = 30.0  # that a client may take to send a request
LARGE = 1 << 18  # bytes of JSON that are read in a thread of their own

Endpoint = Callable[[Request], Awaitable[Response]]


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
        self.app, self.rules, self.metrics = app, rules, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        started, status = time.perf_counter(), 0
        scope["own"] = _by_socket(scope)
        scope["told"] = []

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            try:
                if not scope["own"]:
                    check(self.rules, scope)
                _check_length(scope)
            except Fault as fault:
                await fault_response(fault)(scope, receive, watched)
                return
            await self.app(scope, receive, watched)
        finally:
            self.metrics.requests.labels(str(status)).inc()
            if not self.rules.quiet:
                notice(_line(scope, status, time.perf_counter() - started))


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


def _check_length(scope: Scope) -> None:
    length = Headers(scope=scope).get("content-length", "0")
    if length.isdecimal() and int(length) > MAX_BODY:
        raise too_large()


def too_large() -> Fault:
    return Fault(413, f"the body has more than {MAX_BODY} bytes", headers={"Connection": "close"})


def fault_response(fault: Fault) -> Response:
    return json_response(fault.body(), fault.status, dict(fault.headers))


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """JSON in ASCII: a text that is no Unicode, half a surrogate pair, keeps its escape."""
    return Response(json.dumps(value), status, headers, "application/json")


def _by_socket(scope: Scope) -> bool:
    """Whether it came by the Unix socket: there is no address then."""
    server = scope.get("server")
    return server is None or server[1] is None


def _line(scope: Scope, status: int, seconds: float) -> str:
    client = scope.get("client")
    who = client[0] if client else "socket"
    path = shortened(printable(scope["path"]), 80)
    told: Sequence[str] = scope["told"]
    method = printable(scope["method"])[:10]
    return " ".join([who, method, path, str(status), f"{seconds * 1000:.0f} ms", *told])


def guarded(endpoint: Endpoint) -> Endpoint:
    """The same, its errors as OpenAI's object."""

    async def answered(request: Request) -> Response:
        try:
            return await endpoint(request)
        except FAULTS as error:
            return fault_response(as_fault(error))
        except TimeoutError:
            return fault_response(Fault(408, "the body didn't come in time"))
        except ClientDisconnect:
            return Response(status_code=499)

    return answered


async def read_body(request: Request) -> Fields:
    """Raises Fault: 408 for a slow client, 413 for a large body, 400 for what isn't JSON."""
    parts, size = [], 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                size += len(part)
                if size > MAX_BODY:
                    raise too_large()
                parts.append(part)
    except TimeoutError:
        raise Fault(408, f"the body didn't come within {BODY_SECONDS:g} seconds",
                    headers={"Connection": "close"}) from None  # fmt: skip
    body = b"".join(parts)
    if size > LARGE:
        return await asyncio.to_thread(read_json, body)
    return read_json(body)
