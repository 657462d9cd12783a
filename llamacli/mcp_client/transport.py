"""How a server is reached, within bounds: as a child process that speaks over its stdin and stdout,
and is ended for sure, or by streamable HTTP. A trace tells why it failed.

The package's own client of a process takes lines of any length, and gives stderr to the terminal.
"""

import json
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from subprocess import PIPE
from typing import Any

import anyio
import httpx2
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream
from mcp.client.stdio import get_default_environment
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.message import SessionMessage
from mcp_types import JSONRPCMessage, jsonrpc_message_adapter

from llamacli.errors import NotFoundError, reason
from llamacli.mcp_client.config import ServerConfig
from llamacli.system import APART, end_group
from llamacli.terminal import shortened

# Beside those of the package: language, time zone, where temporary files go. None is a secret.
HANDED_ON = ("LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR")
GONE = 5.0  # seconds after its stdout's end in which it is seen to have ended by itself
CLOSING = 1.0  # seconds to leave after stdin was closed
ENDING = 1.0  # seconds to leave after SIGTERM
DYING = 2.0  # seconds for the system to have killed it
BROKEN = (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError)
CONNECTING = 30.0  # seconds
NEARBY = ("localhost", "127.0.0.1", "::1")
EVENTS = "text/event-stream"
PLAIN = {"Accept-Encoding": "identity"}  # bytes are counted as they come
MOST_MESSAGE = 16 << 20  # bytes of one message
MOST_IN_ALL = 1 << 30  # bytes of all messages of one server
MOST_NOISE = 1 << 20  # bytes on stdout that are no messages
MOST_ERRORS = 4096  # bytes of stderr, its end
MOST_QUOTED = 200  # characters of it in an error


@dataclass
class Trace:
    """fault is why the connection ended, where that is known, changed whether the server has other
    tools than when they were listed. noise is how what isn't MCP's on stdout begins; errors is
    stderr's end."""

    fault: str = ""
    changed: bool = False
    noise: bytes = b""
    noisy: int = 0
    received: int = 0
    errors: bytes = b""

    def hear(self, chunk: bytes) -> None:
        """More of stderr."""
        self.errors = (self.errors + chunk)[-MOST_ERRORS:]

    def ignore(self, line: bytes) -> None:
        """A line of stdout that is no message."""
        self.noise = self.noise or line.strip()[:MOST_QUOTED]
        self.noisy += len(line) + 1
        if self.noisy > MOST_NOISE:
            self.fault = f"it wrote more than {MOST_NOISE >> 20} MiB on stdout that are no messages"

    def told(self, what: str) -> str:
        """A fault, with what the server itself said of it."""
        parts = [what]
        if self.fault and self.fault not in what:
            parts.append(self.fault)
        if self.noise:
            parts.append(f"its stdout has other than MCP's messages, {_quoted(self.noise)}")
        lines = self.errors.decode(errors="replace").strip().splitlines()
        if lines:
            parts.append(f"its last words on stderr: {_quoted(lines[-1].encode())}")
        return "; ".join(parts)


def _quoted(text: bytes) -> str:
    return f"“{shortened(text.decode(errors='replace').strip(), MOST_QUOTED)}”"


def environment(config: ServerConfig) -> dict[str, str]:
    """What a server's process gets: what it needs to run, and what its user names; no tokens."""
    kept = {name: os.environ[name] for name in HANDED_ON if name in os.environ}
    return {**get_default_environment(), **kept, **config.env}


@asynccontextmanager
async def run_server(config: ServerConfig, trace: Trace) -> AsyncIterator[Any]:
    """The server's process, as the streams that mcp's Client takes.

    It has a session of its own, so that Ctrl-C isn't its. At the end it, and all of its children
    that are still in its group, have ended. Raises NotFoundError where it can't be started.
    """
    process = await _start(config)
    incoming, received = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    outgoing, sent = anyio.create_memory_object_stream[SessionMessage](0)
    async with anyio.create_task_group() as group:
        group.start_soon(_read, process, incoming, trace)
        group.start_soon(_hear, process, trace)
        group.start_soon(_write, process, sent)
        try:
            yield received, outgoing
        finally:
            with anyio.CancelScope(shield=True):
                for stream in (received, outgoing):
                    await stream.aclose()
                await _stop(process)
            group.cancel_scope.cancel()


async def _start(config: ServerConfig) -> Process:
    env = environment(config)
    program = shutil.which(config.command[0], path=env.get("PATH"))
    if program is None:
        raise NotFoundError(f"there is no program {config.command[0]}")
    if config.cwd is not None and not config.cwd.is_dir():
        raise NotFoundError(f"there is no folder {config.cwd}")
    return await anyio.open_process(
        [program, *config.command[1:]],
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
        env=env,
        cwd=config.cwd,
        **APART,
    )


async def _read(process: Process, incoming: Any, trace: Trace) -> None:
    """Hand the messages on, line by line, until stdout ends or a limit is overstepped."""
    assert process.stdout is not None
    lines = BufferedByteReceiveStream(process.stdout)
    async with incoming:
        try:
            while not trace.fault:
                await _hand_on(await lines.receive_until(b"\n", MOST_MESSAGE), incoming, trace)
        except anyio.DelimiterNotFound:
            trace.fault = f"it sent a message of more than {MOST_MESSAGE >> 20} MiB"
        except (anyio.IncompleteRead, *BROKEN):
            trace.fault = await _end_of(process)
            return
        end_group(process.pid, at_once=True)


async def _hand_on(line: bytes, incoming: Any, trace: Trace) -> None:
    trace.received += len(line) + 1
    if trace.received > MOST_IN_ALL:
        trace.fault = f"it sent more than {MOST_IN_ALL >> 30} GiB"
        return
    try:
        message = _message(line)
    except (ValueError, RecursionError):
        trace.ignore(line)
    else:
        await incoming.send(SessionMessage(message))


def _message(line: bytes) -> JSONRPCMessage:
    """Raises ValueError or RecursionError for what is none."""
    try:
        return jsonrpc_message_adapter.validate_json(line, by_name=False)
    except ValueError:
        if b"\\u" not in line:
            raise
    # Half a surrogate pair, as where JavaScript cut a text: it goes as `?`.
    whole = json.dumps(json.loads(line), ensure_ascii=False).encode(errors="replace")
    return jsonrpc_message_adapter.validate_json(whole, by_name=False)


async def _end_of(process: Process) -> str:
    if not await _ended(process, GONE):
        return "it closed its stdout"
    code = process.returncode or 0
    return f"it was killed by signal {-code}" if code < 0 else f"it ended with exit code {code}"


async def _hear(process: Process, trace: Trace) -> None:
    assert process.stderr is not None
    with suppress(*BROKEN):
        async for chunk in process.stderr:
            trace.hear(chunk)


async def _write(process: Process, sent: Any) -> None:
    assert process.stdin is not None
    async with sent:
        with suppress(*BROKEN):
            async for message in sent:
                text = message.message.model_dump_json(by_alias=True, exclude_unset=True)
                await process.stdin.send(text.encode(errors="replace") + b"\n")


async def _stop(process: Process) -> None:
    """Close stdin, then ask, then kill; the whole group, in any case, as its leader may be gone."""
    assert process.stdin is not None
    with suppress(*BROKEN):
        await process.stdin.aclose()
    if not await _ended(process, CLOSING):
        end_group(process.pid)
        await _ended(process, ENDING)
    end_group(process.pid, at_once=True)
    await _ended(process, DYING)
    transport = getattr(getattr(process, "_process", None), "_transport", None)
    if transport is not None:  # a child that left the group may hold a pipe open for ever
        transport.close()


async def _ended(process: Process, seconds: float) -> bool:
    """Whether it has ended within that time; wait() would wait for the pipes of its children."""
    with anyio.move_on_after(seconds):
        while process.returncode is None:
            await anyio.sleep(0.01)
    return process.returncode is not None


@asynccontextmanager
async def reach_server(config: ServerConfig, trace: Trace, seconds: float) -> AsyncIterator[Any]:
    """The connection, as the streams that mcp's Client takes; seconds are those of an answer.

    For what is nearby the environment's proxies aren't even read, one of which may be of no use.
    """
    limits = httpx2.Timeout(CONNECTING, read=seconds)
    direct = httpx2.AsyncHTTPTransport() if httpx2.URL(config.url).host in NEARBY else None
    headers = {**config.headers, **PLAIN}
    async with (
        _Bounded(trace, headers=headers, timeout=limits, transport=direct) as http,
        streamable_http_client(
            config.url, http_client=http, max_sse_event_size=MOST_MESSAGE
        ) as streams,
    ):
        yield streams


class _Bounded(httpx2.AsyncClient):
    """A client that tells why a request failed, and reads no more than a message may have.

    The trace is that of what was posted last: a stream of events, which is asked for by GET, need
    not be there.
    """

    def __init__(self, trace: Trace, **options: Any) -> None:
        super().__init__(**options)
        self.trace = trace

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """The answer, whose body is still to be read: all of mcp's are streams."""
        trace = self.trace if request.method == "POST" else Trace()
        trace.fault = ""
        try:
            response = await super().send(request, **options)
        except httpx2.TransportError as error:
            trace.fault = reason(error)
            raise
        if response.status_code >= 400:
            trace.fault = f"it answered with HTTP status {response.status_code}"
        if response.headers.get("content-encoding", "identity") != "identity":
            trace.fault = trace.fault or "its answer is compressed, and might have any size"
            await response.aclose()
            raise httpx2.StreamError(trace.fault)
        events = response.headers.get("content-type", "").startswith(EVENTS)
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        most = MOST_IN_ALL if events else MOST_MESSAGE
        response.stream = _Limited(response.stream, most, trace)
        return response


class _Limited(httpx2.AsyncByteStream):
    def __init__(self, stream: httpx2.AsyncByteStream, most: int, trace: Trace) -> None:
        self.stream, self.most, self.trace = stream, most, trace

    async def __aiter__(self) -> AsyncIterator[bytes]:
        received = 0
        async for chunk in self.stream:
            received += len(chunk)
            if received > self.most:
                self.trace.fault = f"it sent more than {self.most >> 20} MiB"
                raise httpx2.StreamError(self.trace.fault)
            yield chunk

    async def aclose(self) -> None:
        await self.stream.aclose()
