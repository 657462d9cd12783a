"""The loop of a chat on a terminal: read a line, do what it says, show the answer as it comes."""

import sys
from collections.abc import Iterator
from functools import partial

from llamacli.answer import Chunk, Interrupts, interrupts, progress, write_text
from llamacli.engine import Engine
from llamacli.errors import NotFoundError
from llamacli.home import home
from llamacli.prompt import Input, Message
from llamacli.repl.commands import LINE, make_completer, run_command
from llamacli.repl.editor import Interrupted, make_editor
from llamacli.repl.saved import keep_cache, reopen
from llamacli.repl.state import PROMPT, Ask, Repl, beginning, status_line, unquoted
from llamacli.repl.tools import make_calls, refresh
from llamacli.system import held_keys
from llamacli.terminal import complain, say, send, show_status, writer

EDIT_PROMPT = "edit> "


def talk(repl: Repl) -> None:
    """Chat until the user leaves; the session is then saved and closed."""
    history, status = home("history"), partial(status_line, repl)
    repl.read = make_editor(history, make_completer(), status, keep=repl.keeps)
    while not repl.leaving:
        try:
            line = read_line(repl)
            if line is None:
                break
            turn(repl, line)
        except KeyboardInterrupt:  # meant for an answer that has just ended
            continue
    keep_cache(repl)


def read_line(repl: Repl) -> str | None:
    """What the user enters; None at Ctrl-D, or at Ctrl-C twice on an empty line."""
    warned = False
    while True:
        prompt = PROMPT if repl.begin is None else EDIT_PROMPT
        try:
            return repl.read(prompt, repl.begin or "")
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
    begin, attached, before = repl.begin, repl.attached, repl.session.conversation
    try:
        if command := LINE.fullmatch(line.rstrip()):
            ask = run_command(repl, command[1].lower(), (command[2] or "").strip())
        else:
            ask = question(repl, unquoted(line))
        if repl.begin is begin:  # /edit alone lets the next line replace a question
            repl.begin = None
        if ask is not None:
            if repl.servers is not None:
                refresh(repl.servers, repl.session)
            show_answer(repl, ask)
            while repl.session.pending() and make_calls(repl):
                show_answer(repl, repl.session.go_on)
            say("")
    except KeyboardInterrupt:
        show_status("")  # a progress line may stand there
        unanswered = [message["role"] for message in repl.session.messages[-1:]] == ["user"]
        hint = "; /undo takes the question back" if unanswered else ""
        say(f"(interrupted{hint})")
    except Exception as error:
        complain(error)
        if attached and repl.attached is not attached and repl.session.conversation is before:
            say("(the message is dropped, and its files; /file puts them below the next one)")


def question(repl: Repl, text: str) -> Ask | None:
    """What a message asks, with the files that were attached below it, as run puts them."""
    if not (text.strip() or repl.attached):
        return None
    ask = repl.session.send if repl.begin is None else repl.session.edit
    whole = Input(text, tuple(repl.attached)).joined() if repl.attached else text
    repl.attached, repl.begin = [], None
    return partial(ask, whole)


def show_answer(repl: Repl, ask: Ask) -> None:
    """Let the model answer and show it; raises what asking raises, KeyboardInterrupt at Ctrl-C."""
    if repl.engine.lost:
        reopen(repl)
    before, asked = repl.session.last, repl.session.conversation
    try:
        with interrupts() as arrived:
            chunks = ask(
                interrupted=lambda: bool(arrived),
                on_progress=progress(quiet=False),
                on_forget=tell_forgotten,
            )
            _show(chunks, arrived, repl.plain)
    except NotFoundError as error:
        if not isinstance(repl.engine, Engine):
            error.hint = "/regen answers anew, by the model loaded here"
        raise
    finally:
        last = repl.session.last
        if last is not None and last is not before:
            repl.results.append(last)
            if (now := repl.session.conversation) is not asked:
                repl.counted = now, repl.engine, last.prompt_tokens + last.answer_tokens
    if last is not None and last.finish_reason == "length":
        full = last.answer_tokens != repl.session.max_tokens
        say(f"(cut: {'the context is full' if full else 'max-tokens is reached'})")


def _show(chunks: Iterator[Chunk], arrived: Interrupts, plain: bool) -> None:
    if plain:
        with held_keys():
            write_text(chunks, arrived.around(writer(sys.stdout)))
        return
    from llamacli.repl.markdown import MarkdownStream

    stream = MarkdownStream(arrived.around(send))
    with held_keys(stream.restart):
        try:
            for chunk in chunks:
                stream.add(chunk.text)
        except Exception:
            stream.finish()
            raise
        stream.finish()


def tell_forgotten(messages: list[Message]) -> None:
    """Say which turns the model isn't given any more."""
    questions = [beginning(m["content"]) for m in messages if m["role"] == "user"]
    turns = "the oldest turn"
    if questions:
        turns += f", “{questions[0]}”"
    if questions[1:]:
        turns = f"the {len(questions)} oldest turns, “{questions[0]}” to “{questions[-1]}”"
    say(f"(the context is nearly full; the model no longer sees {turns})")
