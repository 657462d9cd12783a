"""A server that is reached by streamable HTTP, whose answers are bounded."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
from mcp.client.streamable_http import streamable_http_client

from llamacli.mcp_client.config import ServerConfig
from llamacli.mcp_client.trace import MOST_IN_ALL, MOST_MESSAGE, Trace

CONNECTING = 30.0  # seconds
EVENTS = "text/event-stream"


@asynccontextmanager
async def reach_server(config: ServerConfig, trace: Trace, seconds: float) -> AsyncIterator[Any]:
    """The connection, as the streams that mcp's Client takes; seconds are those of an answer."""
    limits = httpx2.Timeout(CONNECTING, read=seconds)
    async with (
        httpx2.AsyncClient(
            headers=dict(config.headers), timeout=limits, transport=_Bounded(trace)
        ) as http,
        streamable_http_client(
            config.url, http_client=http, max_sse_event_size=MOST_MESSAGE
        ) as streams,
    ):
        yield streams


class _Bounded(httpx2.AsyncHTTPTransport):
    """A transport that tells why it failed, and reads no more than a message may have."""

    def __init__(self, trace: Trace) -> None:
        super().__init__()
        self.trace = trace

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        try:
            response = await super().handle_async_request(request)
        except httpx2.TransportError as error:
            self.trace.fault = str(error) or type(error).__name__
            raise
        if response.status_code >= 400 and response.status_code != 405:  # 405: it has no events
            self.trace.fault = f"it answered with HTTP status {response.status_code}"
        events = response.headers.get("content-type", "").startswith(EVENTS)
        most = MOST_IN_ALL if events else MOST_MESSAGE
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        response.stream = _Limited(response.stream, most, self.trace)
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
