"""Slash commands: what a line of one looks like, the table of them, and what completes it."""

import difflib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from prompt_toolkit.completion import CompleteEvent, Completion, PathCompleter
from prompt_toolkit.document import Document

from llamacli.chat import saved as sessions
from llamacli.errors import UsageError
from llamacli.repl import actions, saved, tools
from llamacli.repl.actions import SETTINGS
from llamacli.repl.state import Ask, Repl
from llamacli.terminal import say

LINE = re.compile(r"/([A-Za-z?]*)(?:\s+(.*))?", re.DOTALL)


@dataclass(frozen=True)
class Command:
    """run gets what follows the name and may give a question to ask.

    words completes the argument, where it is one of some words; paths where it is a file.
    """

    arguments: str
    help: str
    run: Callable[[Repl, str], Ask | None]
    words: Callable[[], Iterable[str]] = tuple
    paths: bool = False


def show_help(repl: Repl, argument: str) -> None:  # noqa: ARG001
    usages = {name: f"/{name} {command.arguments}".rstrip() for name, command in COMMANDS.items()}
    width = max(map(len, usages.values()))
    lines = [f"{usages[name]:{width}}  {command.help}" for name, command in COMMANDS.items()]
    say("\n".join([*lines, "", *KEYS]))


KEYS = (
    'Alt-Enter begins another line; so does Enter between """ and """.',
    "Ctrl-R searches what was typed before.",
    "Ctrl-C ends an answer, clears a line, and twice on an empty one leaves.",
)

COMMANDS = {
    "help": Command("", "list the commands", show_help),
    "system": Command(
        "[TEXT]", "show the system prompt, or set it; - takes it away", actions.system
    ),
    "reset": Command("", "forget all but the system prompt", actions.reset),
    "regen": Command("", "answer the last question anew", actions.regenerate),
    "edit": Command("[TEXT]", "change the last question and ask it anew", actions.edit),
    "undo": Command("", "take the last question and its answer back", actions.undo),
    "copy": Command("", "copy the last answer to the clipboard", actions.copy_answer),
    "save": Command("NAME", "save this chat under a name and go on there", saved.save),
    "load": Command("NAME", "go on with a saved chat", saved.load, sessions.names),
    "sessions": Command("", "list the saved chats", saved.show_sessions),
    "model": Command(
        "[NAME]", "show the models, or go on with another one", actions.model, actions.models
    ),
    "set": Command(
        "[NAME VALUE]", "show the settings, or change one", actions.set_value, lambda: SETTINGS
    ),
    "file": Command("PATH", "put a file's text below your next message", actions.file, paths=True),
    "tokens": Command("[TEXT]", "count the conversation's tokens, or a text's", actions.tokens),
    "stats": Command("", "show counts and rates of this chat", actions.stats),
    "export": Command("[PATH]", "write the chat as Markdown, or as JSON", saved.export, paths=True),
    "tools": Command("", "list the tools that there are", tools.show_tools),
    "exit": Command("", "leave; also Ctrl-D, /quit, /bye", actions.leave),
}
ALIASES = {"quit": "exit", "bye": "exit", "?": "help", "clear": "reset", "regenerate": "regen"}


def run_command(repl: Repl, name: str, argument: str) -> Ask | None:
    """Do what `/name argument` says, which may give a question to ask.

    Raises UsageError where there is no such command.
    """
    command = COMMANDS.get(ALIASES.get(name, name))
    if command is None:
        near = difflib.get_close_matches(name, [*COMMANDS, *ALIASES], n=1, cutoff=0.5)
        hint = f"did you mean /{near[0]}?" if near else "/help lists them"
        raise UsageError(f"there is no command /{name}; {hint}")
    if argument and not command.arguments:
        raise UsageError(f"/{name} takes nothing behind it")
    return command.run(repl, argument)


def complete(document: Document, event: CompleteEvent) -> Iterable[Completion]:
    """Names of commands with their help, then what their argument can be."""
    name, blank, begun = document.text_before_cursor.partition(" ")
    if not blank:
        for other, command in COMMANDS.items():
            if other.startswith(name[1:]):
                yield Completion(f"/{other}", -len(name), display_meta=command.help)
        return
    known = COMMANDS.get(name[1:])
    if known is None:
        return
    if known.paths:
        yield from PathCompleter(expanduser=True).get_completions(Document(begun), event)
    for word in known.words():
        if word.startswith(begun):
            yield Completion(word, -len(begun))
