"""One server, connected: its tools listed, a tool called."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import mcp_types
from mcp import Client
from mcp.shared.exceptions import MCPError

from llamacli import __version__
from llamacli.errors import LlamacliError, NotFoundError, reason
from llamacli.mcp_client.config import ServerConfig
from llamacli.mcp_client.offer import Outcome, outcome_of
from llamacli.mcp_client.transport import Trace, reach_server, run_server

MOST_PAGES = 100
ASKED_CLOSED = (mcp_types.CONNECTION_CLOSED, mcp_types.REQUEST_TIMEOUT)
LOGGERS = ("mcp", "client", "httpx2", "httpcore2", "asyncio")  # tell servers' words on stderr


@dataclass
class Connection:
    """A server that answers. changed tells that it has other tools than when they were listed."""

    config: ServerConfig
    client: Client
    trace: Trace
    seconds: float
    changed: bool = False

    async def tools(self) -> list[Any]:
        """Its tools as it describes them. Raises NotFoundError where it doesn't answer."""
        found: list[Any] = []
        cursor: str | None = None
        self.changed = False
        try:
            with anyio.fail_after(self.seconds):
                for _ in range(MOST_PAGES):
                    page = await self.client.list_tools(cursor=cursor, cache_mode="refresh")
                    found += page.tools
                    cursor = page.next_cursor
                    if not cursor:
                        break
        except Exception as error:
            raise self._failed("doesn't list its tools", error) from error
        return found

    async def call(self, name: str, arguments: dict[str, Any]) -> Outcome:
        """What a tool gives. All that goes wrong is a result as well, for the model to read.

        Not by the package's call_tool: that tries results with the server's own regular
        expressions, which can take for ever.
        """
        parameters = mcp_types.CallToolRequestParams(name=name, arguments=arguments)
        request = mcp_types.CallToolRequest(params=parameters)
        try:
            with anyio.fail_after(self.seconds):
                result = await self.client.session.send_request(request, mcp_types.CallToolResult)
        except Exception as error:
            return Outcome(f"Error: {self._failed(f'{name} failed', error)}", failed=True)
        return outcome_of(result)

    def _failed(self, what: str, error: Exception) -> NotFoundError:
        why = _why(error, self.trace, self.seconds)
        return NotFoundError(self.trace.told(f"{what}: {why}"))


@asynccontextmanager
async def connected(config: ServerConfig, seconds: float) -> AsyncIterator[Connection]:
    """The server, connected for as long as the block runs; seconds are those of each answer.

    Raises NotFoundError where it can't be started or reached, or doesn't speak MCP.
    """
    for name in LOGGERS:
        logger = logging.getLogger(name)
        logger.propagate = False
        if not logger.handlers:
            logger.addHandler(logging.NullHandler())
    trace = Trace()
    start = run_server(config, trace) if config.command else reach_server(config, trace, seconds)
    found: list[Connection] = []

    async def hear(message: Any) -> None:
        if isinstance(message, mcp_types.ToolListChangedNotification):
            for one in found:
                one.changed = True

    information = mcp_types.Implementation(name="llamacli", version=__version__)
    client = Client(start, client_info=information, message_handler=hear, cache=None)
    begun = False
    try:
        async with client:
            begun, trace.fault = True, ""
            found.append(Connection(config, client, trace, seconds))
            yield found[0]
    except Exception as error:
        first = first_of(error)
        if begun or isinstance(first, LlamacliError):
            raise first from None
        why = _why(first, trace, seconds)
        raise NotFoundError(trace.told(f"it can't be used: {why}")) from error


def first_of(error: BaseException) -> BaseException:
    """The error itself, of those that groups of tasks are told of at once."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _why(error: BaseException, trace: Trace, seconds: float) -> str:
    closed = isinstance(error, MCPError) and error.code in ASKED_CLOSED
    if isinstance(error, TimeoutError):
        return f"it didn't answer within {seconds:g} s"
    if closed and trace.fault:
        return trace.fault
    if type(error).__name__ == "ValidationError":  # pydantic's, of many lines
        return "what it answered isn't as MCP has it"
    return reason(error)
