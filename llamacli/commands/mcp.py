"""What run does with MCP servers: answers and calls in turn, and the last answer on stdout."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from llamacli import mcp_client
from llamacli.errors import UsageError
from llamacli.terminal import as_json, notice, shortened

if TYPE_CHECKING:
    from llamacli.answer import Chunk, OutputStyle, Result
    from llamacli.chat import ChatSession


@dataclass(frozen=True, kw_only=True)
class Mcp:
    """MCP servers, and which of their tools may be called."""

    mcp: Annotated[
        list[str] | None,
        "<FILE|COMMAND|URL>",
        "Call the tools of MCP servers: a file of mcpServers, a command, or a URL.",
    ] = None
    allow: Annotated[
        list[str] | None, "<NAME>", "With --mcp: this tool may be called; '*' is all."
    ] = None
    max_calls: Annotated[int, "With --mcp: after so many calls none follows."] = 16
    mcp_timeout: Annotated[
        float, "With --mcp: seconds that a server has to start, and to answer."
    ] = 60.0

    def read(self) -> "list[mcp_client.ServerConfig]":
        """The servers that are named. Raises UsageError and NotFoundError."""
        return mcp_client.read_servers(self.mcp or ())

    @contextmanager
    def opened(self, given: "Sequence[mcp_client.ServerConfig]") -> "Iterator[mcp_client.Servers]":
        """The servers, which run meanwhile; what can't be used of them is told."""
        with mcp_client.open_servers(given, self.mcp_timeout, self.allow or ()) as servers:
            for problem in servers.problems:
                notice(problem)
            yield servers


def answer_with_servers(
    session: "ChatSession",
    servers: "mcp_client.Servers",
    question: str,
    style: "OutputStyle",
) -> "Result":
    """The last answer on stdout; JSON has the calls and their results as well.

    Raises UsageError where the model calls a tool that isn't allowed.
    """
    from llamacli.answer import tell
    from llamacli.chat import final_answer

    calls: list[dict[str, Any]] = []

    def chunks(interrupted: Callable[[], bool]) -> "Iterator[Chunk]":
        def perform(name: str, arguments: dict[str, Any]) -> str:
            if name not in servers.allowed:
                raise UsageError(
                    f"the model calls {name} with {shortened(as_json(arguments))}, which isn't "
                    f"allowed; allow it by --allow {name}"
                )
            if not style.quiet:
                notice(f"calls {name} with {shortened(as_json(arguments), 300)}")
            outcome = servers.call(name, arguments, interrupted)
            calls.append({"name": name, "arguments": arguments, "result": outcome.text})
            for server in servers.changed():
                notice(f"{server} has other tools now; those that it had at the start are offered")
            return outcome.text

        return final_answer(session, question, perform, interrupted=interrupted)

    engine = session.engine
    start = {"model": engine.name, "quantization": engine.quantization}
    return tell(chunks, start, style, more=lambda: {"calls": calls})
