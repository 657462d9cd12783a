"""One server, connected: its tools listed, a tool called, and what a call gave as a model reads it;
and the tools of all servers under names of one list, checked."""

import fnmatch
import json
import logging
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio
import mcp_types
from mcp import Client
from mcp.shared.exceptions import MCPError

from llamacli import __version__
from llamacli.errors import LlamacliError, NotFoundError, UsageError, reason
from llamacli.mcp_client.config import ServerConfig
from llamacli.mcp_client.transport import Trace, reach_server, run_server
from llamacli.terminal import shortened
from llamacli.tools import MOST_TOOLS, NOTHING, Tool, check_tools

if TYPE_CHECKING:
    from mcp_types import CallToolResult, ContentBlock


MOST_DESCRIPTION = 2000  # characters of it that the model is given
MOST_PAGES = 100
MOST_LISTED = 1000  # tools; beyond, none is offered
ASKED_CLOSED = (mcp_types.CONNECTION_CLOSED, mcp_types.REQUEST_TIMEOUT)
LOGGERS = ("mcp", "client", "httpx2", "httpcore2", "asyncio")  # tell servers' words on stderr


@dataclass(frozen=True)
class Offered:
    """A server's tool: tool is what the model is told, own its name with that server."""

    server: str
    own: str
    tool: Tool


def offer(listed: Mapping[str, Sequence[Any]]) -> tuple[dict[str, Offered], list[str]]:
    """Tools by the names that the model calls, from servers' lists of them, and what is left out.

    A name that several servers have gets its server's in front. Raises UsageError where there are
    more than a prompt takes.
    """
    shared = _twice(name for tools in listed.values() for name in {tool.name for tool in tools})
    named = [
        (f"{server}.{tool.name}" if tool.name in shared else tool.name, server, tool)
        for server, tools in listed.items()
        for tool in tools
    ]
    twice = _twice(name for name, _, _ in named)
    problems = [f"there are two tools called {name}; both are left out" for name in sorted(twice)]
    found: dict[str, Offered] = {}
    for name, server, tool in named:
        if name in twice:
            continue
        try:
            (checked,) = check_tools([_definition(name, tool)])
        except UsageError as error:
            problems.append(f"{server}'s tool {shortened(tool.name)} is left out: {error}")
            continue
        found[name] = Offered(server, tool.name, checked)
    if len(found) > MOST_TOOLS:
        raise UsageError(f"the MCP servers have {len(found)} tools; at most {MOST_TOOLS} are read")
    return found, problems


def _definition(name: str, tool: Any) -> dict[str, Any]:
    parameters = {key: value for key, value in tool.input_schema.items() if key != "$schema"}
    described = (tool.description or "").strip()
    if len(described) > MOST_DESCRIPTION:
        described = described[:MOST_DESCRIPTION] + "…"
    function = {"name": name, "description": described, "parameters": parameters}
    return {"type": "function", "function": function}


def _twice(names: Iterable[str]) -> set[str]:
    return {name for name, count in Counter(names).items() if count > 1}


def allowed_names(patterns: Sequence[str], names: Iterable[str]) -> set[str]:
    """The names that --allow's patterns, as a shell's for files, say. Raises UsageError for one
    that is no tool's."""
    known, found = list(names), set[str]()
    for pattern in patterns:
        matched = fnmatch.filter(known, pattern)
        if not matched:
            raise UsageError(
                f"--allow {pattern}: no tool is called so; there are {', '.join(known) or 'none'}"
            )
        found.update(matched)
    return found


def differences(before: Mapping[str, Offered], now: Mapping[str, Offered]) -> list[str]:
    """What a server that changed its tools did, a line for each server; nothing where none did."""
    changes: dict[str, list[str]] = {}
    for name in sorted({*before, *now}):
        old, new = before.get(name), now.get(name)
        if old and new and old.tool.given == new.tool.given:
            continue
        sign = "new" if old is None else "gone" if new is None else "changed"
        server = (new or old).server  # type: ignore[union-attr]  # it is in one of them
        changes.setdefault(server, []).append(f"{name} ({sign})")
    return [f"{server} has other tools now: {', '.join(one)}" for server, one in changes.items()]


@dataclass(frozen=True)
class Outcome:
    """A call's result. failed tells that the tool, or reaching it, went wrong, stopped that the
    user ended it; text says so then."""

    text: str
    failed: bool = False
    stopped: bool = False


def outcome_of(result: "CallToolResult") -> Outcome:
    """The result's texts. What is no text is told, and left out."""
    text = "\n".join(map(_text_of, result.content))
    if not text.strip() and result.structured_content is not None:
        text = json.dumps(result.structured_content, ensure_ascii=False)
    if result.is_error:
        return Outcome(f"Error: {text.strip() or 'the tool failed and said nothing'}", failed=True)
    return Outcome(text if text.strip() else NOTHING)


def _text_of(block: "ContentBlock") -> str:
    if block.type == "text":
        return block.text
    if block.type == "resource_link":
        return f"[a link to {block.uri}]"
    if block.type == "resource":
        text = getattr(block.resource, "text", None)
        return text if isinstance(text, str) else f"[{block.resource.uri}, no text: left out]"
    return f"[{block.type}, {block.mime_type}: left out]"


@dataclass
class Connection:
    """A server that answers."""

    config: ServerConfig
    client: Client
    trace: Trace
    seconds: float

    async def tools(self) -> list[Any]:
        """Its tools as it describes them. Raises NotFoundError where it doesn't answer."""
        found: list[Any] = []
        cursor: str | None = None
        self.trace.changed = False
        try:
            with anyio.fail_after(self.seconds):
                for _ in range(MOST_PAGES):
                    page = await self.client.list_tools(cursor=cursor, cache_mode="refresh")
                    found += page.tools
                    cursor = page.next_cursor
                    if not cursor or len(found) > MOST_LISTED:
                        break
        except Exception as error:
            raise self._failed("doesn't list its tools", error) from error
        if len(found) > MOST_LISTED:
            raise NotFoundError(f"lists more than {MOST_LISTED} tools")
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
        logger.addHandler(logging.NullHandler())
    trace = Trace()
    start = run_server(config, trace) if config.command else reach_server(config, trace, seconds)

    async def hear(message: Any) -> None:
        trace.changed |= isinstance(message, mcp_types.ToolListChangedNotification)

    information = mcp_types.Implementation(name="llamacli", version=__version__)
    client = Client(start, client_info=information, message_handler=hear, cache=None)
    begun = False
    try:
        async with client:
            begun = True
            yield Connection(config, client, trace, seconds)
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
