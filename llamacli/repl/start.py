"""From the options of `chat` to its loop: the model loaded, the session begun or gone on with."""

import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from importlib import import_module
from io import TextIOWrapper
from typing import Any

from llamacli.chat import ChatSession
from llamacli.chat import saved as sessions
from llamacli.engine import DEFAULT_CONTEXT, Asked, Engine, SamplingSettings
from llamacli.errors import OutputError
from llamacli.gguf import check_llama, read_gguf
from llamacli.models import close_beside, model_path, open_engine
from llamacli.repl.saved import begin_log, continue_log, show_end, use_settings
from llamacli.repl.state import Repl, heading, say
from llamacli.terminal import lively, notice

UNTOLD = 0.5  # seconds of loading before it is counted


@dataclass(frozen=True)
class Wanted:
    """What the command line says; None among settings leaves it to the session, or the model.

    named tells that the model is from the command line itself, and so wins over the session's.
    """

    model: str | None
    named: bool
    asked: Asked
    settings: dict[str, Any] = field(default_factory=dict)
    system: str | None = None
    date: datetime | None = None
    plain: bool = False
    save: bool = True
    name: str | None = None


def start_repl(wanted: Wanted, *, resume: bool, session: str | None = None) -> None:
    """Chat on this terminal until the user leaves."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # what a terminal's encoding lacks shows as ?
    loop = "llamacli.repl.loop"  # with what it imports: read while the model is loaded
    threading.Thread(target=import_module, args=(loop,), daemon=True).start()
    saved = sessions.resume(session, notice) if resume else None
    if saved is not None and saved.log is not None and not wanted.save:
        saved.log.close()
        saved = replace(saved, log=None)
    settings = dict(saved.head.settings) if saved is not None else {}
    settings |= {name: value for name, value in wanted.settings.items() if value is not None}
    model = wanted.model
    if saved is not None and not wanted.named:
        model = saved.head.model or model
    context = wanted.asked.context or settings.get("context")
    engine = _open(model, replace(wanted.asked, context=context))
    chat = ChatSession(engine, SamplingSettings(), date=wanted.date)
    name = model or str(engine.path)
    repl = Repl(chat, name, _opener(wanted), plain=wanted.plain or not _has_colours())
    try:
        use_settings(chat, settings)
        if saved is not None:
            chat.conversation = saved.conversation
            if engine.context_size > (saved.head.settings.get("context") or DEFAULT_CONTEXT):
                chat.use_engine(engine)  # what was let go may fit now
            continue_log(repl, saved)
        elif wanted.save:
            _begin_log(repl, wanted.name)
        if wanted.system is not None:
            chat.set_system(wanted.system)
        say(heading(repl))
        show_end(repl)

        from llamacli.repl.loop import talk

        talk(repl)
    finally:
        if repl.log is not None:
            repl.log.close()
        close_beside(repl.engine)


def _begin_log(repl: Repl, name: str | None) -> None:
    try:
        begin_log(repl, name)
    except OutputError as error:
        notice(f"{error}; this chat isn't saved")


def _opener(wanted: Wanted) -> Callable[[str, Callable[[], None]], Engine]:
    """What loads another model: in the context that was asked for, where it can have that."""

    def open_model(name: str, ready: Callable[[], None]) -> Engine:
        trained = check_llama(read_gguf(model_path(name))).context
        context = wanted.asked.context
        if isinstance(context, int) and context > trained:
            context = None
        ready()
        return _open(name, replace(wanted.asked, context=context))

    return open_model


def _open(model: str | None, asked: Asked) -> Engine:
    """The engine; loading that takes long is counted on a line of stderr, which then goes."""
    begun = time.monotonic()
    drawn = False

    def show(share: float) -> None:
        nonlocal drawn
        if time.monotonic() - begun > UNTOLD:
            drawn = True
            print(f"\r\x1b[Kloading the model: {share:.0%}", end="", file=sys.stderr, flush=True)

    try:
        return open_engine(model, asked, on_load=show if lively(sys.stderr) else None)
    finally:
        if drawn:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _has_colours() -> bool:
    return lively(sys.stdout) and not os.environ.get("NO_COLOR")
