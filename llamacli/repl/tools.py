"""Calls of tools in a chat: made by a server where the user says so, or by the user, and shown."""

from functools import partial
from typing import Any

from llamacli import mcp_client
from llamacli.answer import interrupts
from llamacli.chat import ChatSession, perform_calls
from llamacli.errors import UsageError
from llamacli.repl.editor import Interrupted
from llamacli.repl.state import Repl, beginning, unquoted
from llamacli.system import drop_keys, held_keys
from llamacli.terminal import as_json, asked, columns, notice, say
from llamacli.tools import NOTHING, STOPPED, Tool

DECLINED = "Error: the user declined this call."
FOLDED = 200  # characters


def make_calls(repl: Repl) -> bool:
    """Give each call of the last answer its result; whether the model is to go on from them."""
    stopped: list[str] = []
    perform_calls(repl.session, partial(_perform, repl, stopped))
    if stopped:
        say(f"({', '.join(stopped)} stopped)")
    return not stopped


def _perform(repl: Repl, stopped: list[str], name: str, arguments: dict[str, Any]) -> str:
    """One call's result; the calls after one that was stopped aren't made."""
    text, servers = DECLINED, repl.servers
    try:
        say(f"→ {name} {beginning(as_json(arguments), FOLDED)}", dim=True)  # Ctrl-C may follow
        if servers is None and not stopped:
            return _typed(repl, stopped, name)
        if servers and not stopped and (name in servers.allowed or _is_wanted(repl, name)):
            with held_keys(), interrupts() as arrived:
                text = servers.call(name, arguments, lambda: bool(arrived)).text
    except KeyboardInterrupt:  # before the server was asked
        stopped.append(name)
        text = STOPPED
    more = f" ({len(text)} characters)" * (len(text) > FOLDED)
    say(f"← {beginning(text, FOLDED)}{more}", dim=True)
    return text


def _typed(repl: Repl, stopped: list[str], name: str) -> str:
    """The result that the user types: many lines as in a message, none for nothing."""
    try:
        text = repl.read(f"result of {name}> ", "")
    except EOFError:
        return DECLINED
    except Interrupted:
        stopped.append(name)
        return STOPPED
    return unquoted(text) or NOTHING


def _is_wanted(repl: Repl, name: str) -> bool:
    assert repl.servers is not None
    drop_keys()  # what was typed before the question isn't its answer
    reply = asked(f"call {name}? [y]es, [N]o, [a]lways")
    if reply in ("a", "always"):
        repl.servers.allowed.add(name)
    return reply in ("y", "yes", "a", "always")


def refresh(servers: "mcp_client.Servers", session: ChatSession) -> None:
    """Before a question: take the servers' tools as they are now, and tell what is different."""
    if session.offer is not None and servers.changed():
        for line in servers.refresh():
            notice(line)
        session.offer.tools = servers.tools


def show_tools(repl: Repl, argument: str) -> None:  # noqa: ARG001
    if repl.servers is None:
        if repl.session.offer is None:
            raise UsageError("there are no tools: begin the chat with --mcp or --tools")
        tools = repl.session.offer.tools
        say(columns([(tool.name, "you answer", _about(tool)) for tool in tools], "lll"))
        return
    rows = [
        (
            name,
            one.server,
            "allowed" if name in repl.servers.allowed else "asks",
            _about(one.tool),
        )
        for name, one in repl.servers.offered.items()
    ]
    say(columns(rows, "llll") if rows else "the servers have no tools")
    for problem in repl.servers.problems:
        notice(problem)


def _about(tool: Tool) -> str:
    return beginning(tool.given["function"].get("description", ""))
