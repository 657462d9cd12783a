"""The loop of a chat on a terminal: read a line, do what it says, until the user leaves."""

import sys

from llamacli.errors import LlamacliError
from llamacli.home import home
from llamacli.repl.commands import complete, interpret
from llamacli.repl.editor import Interrupted, Read, make_editor
from llamacli.repl.saved import end_log
from llamacli.repl.show import show_answer
from llamacli.repl.state import PROMPT, Repl, say, status_line
from llamacli.terminal import lively, notice

EDIT_PROMPT = "edit> "


def talk(repl: Repl) -> None:
    """Chat until the user leaves; the session is then saved and closed."""
    read = make_editor(home() / "history", complete, lambda: status_line(repl))
    while not repl.leaving:
        line = read_line(repl, read)
        if line is None:
            break
        turn(repl, line)
    end_log(repl)


def read_line(repl: Repl, read: Read) -> str | None:
    """What the user enters; None at Ctrl-D, or at Ctrl-C twice on an empty line."""
    warned = False
    while True:
        prompt = PROMPT if repl.begin is None else EDIT_PROMPT
        try:
            return read(prompt, repl.begin or "")
        except EOFError:
            return None
        except Interrupted:
            if warned:
                return None
            warned = repl.begin is None
            say("(Ctrl-C again leaves)" if warned else "(the question stays as it was)")
            repl.begin = None


def turn(repl: Repl, line: str) -> None:
    """Do what a line says; what goes wrong is told, and the chat goes on."""
    begin = repl.begin
    try:
        ask = interpret(repl, line)
        if repl.begin is begin:  # /edit alone lets the next line replace a question
            repl.begin = None
        if ask is not None:
            show_answer(repl, ask)
            say("")
    except KeyboardInterrupt:
        if lively(sys.stderr):
            print("\r\x1b[K", end="", file=sys.stderr)  # of a progress line
        unanswered = [message["role"] for message in repl.session.messages[-1:]] == ["user"]
        hint = "; /undo takes the question back" if unanswered else ""
        say(f"(interrupted{hint})")
    except LlamacliError as error:
        notice(str(error))
