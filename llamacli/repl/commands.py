"""Slash commands: what a line of one looks like, the table of them, and what completes it."""

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from prompt_toolkit.completion import (
    Completer,
    NestedCompleter,
    PathCompleter,
    WordCompleter,
    merge_completers,
)

from llamacli.chat import saved as sessions
from llamacli.errors import UsageError
from llamacli.models import complete_models
from llamacli.repl import actions, saved, tools
from llamacli.repl.actions import SETTINGS
from llamacli.repl.state import Ask, Repl
from llamacli.terminal import say

LINE = re.compile(r"/([A-Za-z?]*)(?:\s+(.*))?", re.DOTALL)


@dataclass(frozen=True)
class Command:
    """run gets what follows the name and may give a question to ask; completer completes that."""

    arguments: str
    help: str
    run: Callable[[Repl, str], Ask | None]
    completer: Completer | None = None


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

PATHS = PathCompleter(expanduser=True)
SESSIONS = WordCompleter(sessions.names, sentence=True)
MODELS = WordCompleter(partial(complete_models, ""), sentence=True)
NAMES = WordCompleter([*SETTINGS], sentence=True)

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
    "load": Command("NAME", "go on with a saved chat", saved.load, SESSIONS),
    "sessions": Command("", "list the saved chats", saved.show_sessions),
    "model": Command("[NAME]", "show the models, or go on with another", actions.model, MODELS),
    "set": Command("[NAME VALUE]", "show the settings, or change one", actions.set_value, NAMES),
    "file": Command("PATH", "put a file's text below your next message", actions.file, PATHS),
    "tokens": Command("[TEXT]", "count the conversation's tokens, or a text's", actions.tokens),
    "stats": Command("", "show counts and rates of this chat", actions.stats),
    "export": Command("[PATH]", "write the chat as Markdown, or as JSON", saved.export, PATHS),
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


def make_completer() -> Completer:
    """What completes names of commands, with their help, then what their argument can be."""
    helps = {f"/{name}": command.help for name, command in COMMANDS.items()}
    names = WordCompleter([*helps], meta_dict=helps, sentence=True)
    arguments = {f"/{name}": command.completer for name, command in COMMANDS.items()}
    return merge_completers([names, NestedCompleter(arguments)], deduplicate=True)
