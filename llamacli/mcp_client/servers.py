"""All servers, in a thread of their own: started together, called one by one, ended for sure."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, wait as wait_for
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from convert import deferred_signals
from llamacli.errors import LlamacliError, NotFoundError, UsageError
from llamacli.mcp_client.config import ServerConfig
from llamacli.terminal import as_json
from llamacli.tools import STOPPED, Tool

try:
    from anyio import Event
    from anyio.from_thread import BlockingPortal, start_blocking_portal

    from llamacli.mcp_client.connection import (
        Connection,
        Offered,
        Outcome,
        allowed_names,
        connected,
        differences,
        first_of,
        offer,
    )
except ImportError as error:
    raise UsageError(
        f"--mcp needs the package mcp ({error}); install it by pip install 'llamacli[mcp]'"
    ) from None

POLL = 0.05  # seconds between two looks at whether the user ends a call
LONGEST = 1_000_000  # seconds to wait for an answer
LEAVING = 10.0  # seconds in which every server has been killed
MOST_ARGUMENTS = 1 << 20  # characters


@dataclass
class Servers:
    """The servers that run, and the tools that they offer, by the names that a model calls.

    problems are lines on what is left out of them, allowed the names of those that may be called
    without asking, silent the servers that don't answer any more.
    """

    portal: BlockingPortal
    connections: dict[str, Connection]
    allowed: set[str] = field(default_factory=set)
    offered: dict[str, Offered] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    silent: set[str] = field(default_factory=set)

    @property
    def tools(self) -> list[Tool]:
        return [one.tool for one in self.offered.values()]

    def refresh(self) -> list[str]:
        """List the tools anew, as servers may change them; says what is different.

        What was allowed of a changed tool isn't any more. A server that doesn't answer keeps its.
        """
        listed: dict[str, list[Any]] = {}
        kept: dict[str, Offered] = {}
        silent, told = set(), []
        for name, connection in self.connections.items():
            try:
                listed[name] = self.portal.call(connection.tools)
            except LlamacliError as error:
                kept |= {key: one for key, one in self.offered.items() if one.server == name}
                told += [f"{name} {error}"] if name not in self.silent else []
                silent.add(name)
        self.silent = silent
        now, self.problems = offer(listed)
        now = kept | now
        told += differences(self.offered, now)
        self.allowed -= {name for name in now if now[name] != self.offered.get(name)}
        self.offered = now
        return told

    def changed(self) -> list[str]:
        """The servers that say that their tools are other ones by now."""
        return [name for name, one in self.connections.items() if one.trace.changed]

    def call(
        self, name: str, arguments: dict[str, Any], interrupted: Callable[[], bool]
    ) -> Outcome:
        """What a tool gives; where the user interrupts it, that it was stopped."""
        one = self.offered.get(name)
        if one is None:
            return Outcome(f"Error: there is no tool {name} any more", failed=True)
        if len(as_json(arguments)) > MOST_ARGUMENTS:
            return Outcome("Error: the arguments are too long", failed=True)
        connection = self.connections[one.server]
        future: Future[Outcome] = self.portal.start_task_soon(connection.call, one.own, arguments)
        try:
            while not interrupted():
                with suppress(TimeoutError):
                    return future.result(POLL)
        finally:
            future.cancel()
        return Outcome(STOPPED, failed=True, stopped=True)


@contextmanager
def open_servers(
    configs: Sequence[ServerConfig], seconds: float, allowed: Sequence[str] = ()
) -> Iterator[Servers]:
    """Start or reach all servers, for as long as the block runs; seconds are those of each answer.

    Raises UsageError, and NotFoundError for a server that fails.
    """
    if not 0 < seconds <= LONGEST:
        fault = f"the time limit of MCP servers is {seconds:g} s"
        raise UsageError(f"{fault}; give more than 0, at most {LONGEST}")
    # Events that a thread's own loop has; stopping it cancels what still runs there.
    with start_blocking_portal() as portal:
        begun: list[tuple[ServerConfig, Future[Any], Future[Any]]] = []
        leave = portal.call(Event)
        try:
            for config in configs:
                ready: Future[Any] = Future()
                task = portal.start_task_soon(_hold, config, seconds, ready, leave)
                begun.append((config, ready, task))
            servers = Servers(portal, {c.name: _ready(c, r, seconds) for c, r, _ in begun})
            told = servers.refresh()
            if servers.silent:
                raise NotFoundError(f"the MCP server {told[0]}")
            servers.allowed = allowed_names(allowed, servers.offered)
            yield servers
        finally:
            with deferred_signals([]):  # a second Ctrl-C must not leave processes behind
                portal.call(leave.set)
                for _, ready, task in begun:
                    if not ready.done():
                        task.cancel()
                _, late = wait_for([task for _, _, task in begun], LEAVING)
                for task in late:
                    task.cancel()


def _ready(config: ServerConfig, ready: "Future[Any]", seconds: float) -> Any:
    try:
        return ready.result(seconds)
    except TimeoutError:
        raise NotFoundError(
            f"the MCP server {config.name} didn't start within {seconds:g} s; raise "
            "--mcp-timeout, or see what its command says by itself"
        ) from None
    except LlamacliError as error:
        raise type(error)(f"the MCP server {config.name}: {error}") from error
    except CancelledError:
        raise NotFoundError(f"the MCP server {config.name} ended while it started") from None


async def _hold(config: ServerConfig, seconds: float, ready: "Future[Any]", leave: Any) -> None:
    """Keep a server connected until leave is set; ready gets it, or why it can't be had."""
    try:
        async with connected(config, seconds) as connection:
            ready.set_result(connection)
            await leave.wait()
    except BaseException as error:
        if not ready.done():
            ready.set_exception(first_of(error))
        if not isinstance(error, Exception):
            raise
