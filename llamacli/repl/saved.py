"""What a chat keeps: its session, with model and settings, its KV cache, its text as a file."""

from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from llamacli.chat import (
    SAMPLING,
    ChatSession,
    Session,
    SessionHead,
    export_chat,
    saved as sessions,
)
from llamacli.engine import DEFAULT_CONTEXT, Engine, SamplingSettings
from llamacli.errors import LlamacliError, UsageError, told
from llamacli.home import expanded
from llamacli.repl.state import PROMPT, Repl, beginning, heading
from llamacli.terminal import columns, notice, printable, say


def head_of(session: ChatSession, model: str) -> SessionHead:
    """What to remember of the model, by what -m takes, and of the settings."""
    settings: dict[str, Any] = {
        **{name: getattr(session.sampling, name) for name in SAMPLING},
        "max_tokens": session.max_tokens,
        "context": session.engine.settings.context,
        "stop": list(session.stop),
        "adapters": [f"{a.path}:{a.scale:g}" for a in session.engine.settings.adapters],
    }
    held = {name: value for name, value in settings.items() if value not in (None, [])}
    name = str(Path(model).resolve()) if Path(model).is_file() else model
    return SessionHead(name, session.engine.quantization, held)


def remember(repl: Repl) -> None:
    """Put the model and the settings, which have changed, into the session."""
    if repl.log is not None:
        repl.log.record(head_of(repl.session, repl.model).line())


def begin_log(repl: Repl, name: str | None) -> None:
    """Save the chat from now on in a new session, with what has been said already."""
    head = head_of(repl.session, repl.model)
    log = sessions.create(name, head, notice, repl.session.conversation.steps())
    if repl.log is None:
        repl.session.name = log.name
    repl.log, repl.session.record = log, log.record


def keep_cache(repl: Repl) -> None:
    """Save the KV cache beside the session, where it is here."""
    engine = repl.engine
    if (
        isinstance(engine, Engine)
        and repl.log is not None
        and repl.session.conversation.body
        and engine.tokens
        and not engine.lost
    ):
        problem = sessions.save_cache(engine, repl.log.name)
        if problem:
            notice(problem)


def continue_log(repl: Repl, saved: Session) -> None:
    """Go on with a saved chat, let go of the one before it, and find the KV cache."""
    before, repl.log = repl.log, saved.log
    repl.session.record = saved.log.record if saved.log is not None else lambda _: None
    repl.session.conversation, repl.session.name = saved.conversation, saved.name
    if before is not None:
        before.close()
    if repl.engine.context_size > (saved.head.settings.get("context") or DEFAULT_CONTEXT):
        repl.session.use_engine(repl.engine)  # what was let go may fit now
    for text in saved.notices:
        notice(f"session {saved.name}: {text}")
    if repl.session.conversation.body and isinstance(engine := repl.engine, Engine):
        with suppress(LlamacliError):  # of the template, which the next question tells
            tokens = repl.session.prompt_tokens()
            if problem := sessions.restore_cache(engine, saved.name, tokens):
                notice(problem)


def show_end(repl: Repl) -> None:
    """Recall the last question and its answer, by how they begin."""
    turns = repl.session.conversation.turns()
    for message in repl.session.conversation.body[turns[-1] :] if turns else ():
        mark = PROMPT if message["role"] == "user" else ""
        say(mark + beginning(message["content"] or "", 200))


def use_settings(session: ChatSession, settings: Mapping[str, Any]) -> None:
    """Let a head's settings hold; what they leave open is as the model has it."""
    metadata = session.engine.file.metadata
    given = {name: settings.get(name) for name in SAMPLING}
    session.sampling = SamplingSettings.from_metadata(metadata, **given)
    session.max_tokens = settings.get("max_tokens")
    session.stop = tuple(settings.get("stop") or ())


def save(repl: Repl, argument: str) -> None:
    if not argument:
        raise UsageError("name it: /save NAME")
    before = repl.log
    begin_log(repl, argument)
    if before is not None:
        before.close()
    say(f"(saved as {argument}, and goes on there)")


def resume(name: str | None, *, keep: bool) -> Session:
    """A saved chat, of which nothing new is saved unless keep says so."""
    return sessions.resume(name, notice) if keep else sessions.look(name)


def load(repl: Repl, argument: str) -> None:
    if not argument:
        raise UsageError("name a chat: /load NAME; /sessions lists them")
    if repl.log is not None and repl.log.name == argument:
        raise UsageError(f"this is {argument} already")
    saved = resume(argument, keep=repl.keeps)
    try:
        keep_cache(repl)
        if saved.head.model not in ("", head_of(repl.session, repl.model).model):
            load_model(repl, saved.head.model)
    except Exception as error:
        if repl.leaving:
            raise
        notice(f"{told(error)}; {repl.engine.name} goes on")
    except BaseException:  # Ctrl-C: the chat that was there goes on, and is still saved
        if saved.log is not None:
            saved.log.close()
        raise
    use_settings(repl.session, saved.head.settings)
    _tell_adapters(repl, saved.head)
    continue_log(repl, saved)
    say(heading(repl))
    show_end(repl)


def _tell_adapters(repl: Repl, head: SessionHead) -> None:
    """Say so where a chat goes on with other adapters than it had: those stay that are loaded."""
    now = head_of(repl.session, repl.model).settings.get("adapters", [])
    if head.settings.get("adapters", []) != now:
        had = ", ".join(head.settings.get("adapters", [])) or "none"
        notice(printable(f"that chat had the adapters {had}; `chat --resume` loads them"))


def show_sessions(repl: Repl, argument: str) -> None:  # noqa: ARG001
    current = repl.log.name if repl.log is not None else None
    rows = []
    for name, time in sessions.last_written().items():
        when = datetime.fromtimestamp(time).strftime("%Y-%m-%d %H:%M")
        turns, model, what = 0, "", ""
        try:
            saved = sessions.look(name)
            model = beginning(Path(saved.head.model).name, 30)
            questions = [m["content"] for m in saved.conversation.body if m["role"] == "user"]
            turns, what = len(questions), beginning("".join(questions[:1]))
        except LlamacliError as error:
            what = beginning(str(error))
        mark = "*" if name == current else " "
        rows.append((f"{mark} {name}", when, f"{turns} turn{'s' * (turns != 1)}", model, what))
    say(columns(rows, "llrll") if rows else "no chat is saved yet")


def export(repl: Repl, argument: str) -> None:
    name = repl.log.name if repl.log is not None else "chat"
    path = expanded(argument.strip("\"'") or f"{name}.md")
    export_chat(path, head_of(repl.session, repl.engine.name), repl.session.messages)
    say(f"(written to {printable(str(path))})")


def reopen(repl: Repl) -> None:
    """Load the model anew, a worker of which was lost, or that the server has no longer.

    Raises UnreachableError while the worker isn't back; the chat stays as it is.
    """
    if isinstance(engine := repl.engine, Engine):
        engine.workers.greet()
        notice("the worker is back; the model is loaded anew")
    else:
        notice("the server is gone, or has the model no longer: it is loaded here")
    load_model(repl, repl.model)


def load_model(repl: Repl, name: str) -> None:
    """Have a model in place of the one there is, which stays, or is loaded anew, where that fails.

    Should that fail as well, there is none to go on with, and the chat ends.
    """
    before = repl.engine
    try:
        engine = repl.open_model(name, before.close)  # two in memory may not fit
    except BaseException:
        if before.closed:
            repl.leaving = True
            repl.session.engine = repl.open_model(repl.model, lambda: None)
            repl.leaving = False
        raise
    repl.model, repl.session.engine = name, engine
