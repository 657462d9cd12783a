"""From the options of `chat` to its loop: the model loaded, the session begun or gone on with."""

import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import Any

from llamacli import mcp_client
from llamacli.answer import Calling
from llamacli.chat import ChatEngine, ChatSession
from llamacli.engine import AdapterChoice, Asked, Engine, SamplingSettings
from llamacli.errors import LlamacliError, OutputError
from llamacli.gguf import check_llama, read_gguf
from llamacli.models import adapter_choices, close_in_background, model_path, open_engine
from llamacli.repl.saved import (
    begin_log,
    continue_log,
    resume as resume_saved,
    show_end,
    use_settings,
)
from llamacli.repl.state import Repl, heading
from llamacli.terminal import lively, notice, say, show_status, writer
from llamacli.tools import OUTPUT_LIMIT

UNTOLD = 0.5  # seconds of loading before it is counted


@dataclass(frozen=True)
class Wanted:
    """What the command line says; None among settings leaves it to the session, or the model.

    named tells that the model is from the command line itself, and so wins over the session's.
    no_server says why no server is to be asked; None where one may be.
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
    no_server: str | None = None
    verbose: bool = False
    servers: "mcp_client.Servers | None" = None
    offer: Calling | None = None
    most_calls: int = 16
    output_limit: int = OUTPUT_LIMIT


def start_repl(wanted: Wanted, *, resume: bool, session: str | None = None) -> None:
    """Chat on this terminal until the user leaves."""
    writer(sys.stdout)  # what the terminal's encoding lacks shows as ?
    threading.Thread(target=_import_loop, daemon=True).start()  # while the model is loaded
    saved = resume_saved(session, keep=wanted.save) if resume else None
    settings = dict(saved.head.settings) if saved is not None else {}
    settings |= {name: value for name, value in wanted.settings.items() if value is not None}
    model, asked = wanted.model, wanted.asked
    if saved is not None and not wanted.named:
        model = saved.head.model or model
        asked = replace(asked, adapters=asked.adapters or _adapters(settings))
    asked = replace(asked, context=asked.context or settings.get("context"))
    path = model_path(model)
    chat = ChatSession(
        _open(path, asked, wanted),
        SamplingSettings(),
        date=wanted.date,
        offer=wanted.offer,
        most_calls=wanted.most_calls,
        output_limit=wanted.output_limit,
    )
    plain = wanted.plain or not lively(sys.stdout) or bool(os.environ.get("NO_COLOR"))
    repl = Repl(
        chat,
        model or str(path),
        _opener(wanted, path, asked),
        keeps=wanted.save,
        plain=plain,
        servers=wanted.servers,
    )
    try:
        use_settings(chat, settings)
        if saved is not None:
            continue_log(repl, saved)
        elif wanted.save:
            try:
                begin_log(repl, wanted.name)
            except OutputError as error:
                notice(f"{error}; this chat isn't saved")
        if wanted.system is not None:
            chat.set_system(wanted.system)
        say(heading(repl))
        show_end(repl)

        from llamacli.repl.loop import talk

        talk(repl)
    finally:
        if repl.log is not None:
            repl.log.close()
        if isinstance(repl.engine, Engine):
            close_in_background(repl.engine)


def _adapters(settings: Mapping[str, Any]) -> tuple[AdapterChoice, ...]:
    """Those of a saved chat; it goes on without where one isn't there any more."""
    try:
        return adapter_choices(settings.get("adapters"))
    except LlamacliError as error:
        notice(f"{error}; the chat goes on without its adapters")
        return ()


def _import_loop() -> None:
    with suppress(Exception):  # it is raised where the loop is imported to be used
        import_module("llamacli.repl.loop")


def _opener(
    wanted: Wanted, first: Path, asked: Asked
) -> Callable[[str, Callable[[], None]], ChatEngine]:
    """What loads the first model again, or another one: in the context of the command line, where
    it can have that, and without the first one's adapters.
    """

    def open_model(name: str, ready: Callable[[], None]) -> ChatEngine:
        path = model_path(name)
        trained = check_llama(read_gguf(path)).context
        context = wanted.asked.context
        if isinstance(context, int) and context > trained:
            context = None
        ready()
        if path == first:
            return _open(path, asked, wanted)
        return _open(path, replace(wanted.asked, context=context, adapters=()), wanted)

    return open_model


def _open(path: Path, asked: Asked, wanted: Wanted) -> ChatEngine:
    """The model by a server of the user's that has it, else loaded here."""
    from llamacli.serve import BY_SERVER, served_model

    served = wanted.no_server or served_model(path, asked.context, asked.adapters)
    if wanted.verbose:
        notice(f"the model is loaded here: {served}" if isinstance(served, str) else BY_SERVER)
    return _load(path, asked) if isinstance(served, str) else served


def _load(path: Path, asked: Asked) -> Engine:
    """The engine; loading that takes long is counted on a line of stderr, which then goes."""
    begun = time.monotonic()

    def show(share: float) -> None:
        if time.monotonic() - begun > UNTOLD:
            show_status(f"loading the model: {share:.0%}")

    try:
        return open_engine(path, asked, on_load=show)
    finally:
        show_status("")
