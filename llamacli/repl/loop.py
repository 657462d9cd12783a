"""The loop of a chat on a terminal: read a line, do what it says, until the user leaves."""

from llamacli.home import home
from llamacli.repl.commands import complete, interpret
from llamacli.repl.editor import Interrupted, Read, make_editor
from llamacli.repl.saved import keep_cache
from llamacli.repl.show import show_answer
from llamacli.repl.state import PROMPT, Repl, status_line
from llamacli.terminal import complain, say, show_status

EDIT_PROMPT = "edit> "


def talk(repl: Repl) -> None:
    """Chat until the user leaves; the session is then saved and closed."""
    history = home() / "history"
    read = make_editor(history, complete, lambda: status_line(repl), keep=repl.keeps)
    while not repl.leaving:
        line = read_line(repl, read)
        if line is None:
            break
        turn(repl, line)
    keep_cache(repl)


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
        show_status("")  # a progress line may stand there
        unanswered = [message["role"] for message in repl.session.messages[-1:]] == ["user"]
        hint = "; /undo takes the question back" if unanswered else ""
        say(f"(interrupted{hint})")
    except Exception as error:
        complain(error)
