"""The line editor: history, many lines in one message, completion, a status line below."""

import signal
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import FrameType

from prompt_toolkit import PromptSession
from prompt_toolkit.application import Application, get_app
from prompt_toolkit.completion import Completer, ConditionalCompleter
from prompt_toolkit.enums import DEFAULT_BUFFER
from prompt_toolkit.filters import Condition, has_focus
from prompt_toolkit.history import FileHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.styles import Style
from prompt_toolkit.utils import is_dumb_terminal

from llamacli.repl.state import is_open
from llamacli.system import ENDING
from llamacli.terminal import read_typed, say

Read = Callable[[str, str], str]

CONTINUED = "... "
MAX_TEXT = 100_000  # characters of a text in the history
STYLE = Style.from_dict({"bottom-toolbar": "noreverse dim"})


class Interrupted(Exception):
    """Ctrl-C on an empty line."""


def make_editor(
    history: Path, completer: Completer, status: Callable[[], str], *, keep: bool = True
) -> Read:
    """What reads a line or more, given the prompt and a text that is there already to be edited.

    It raises EOFError for Ctrl-D, and Interrupted for Ctrl-C, on an empty line. history is kept in
    that file, for all chats, or only read from it where keep is false; status is shown below;
    what begins with a slash is completed.
    """
    if is_dumb_terminal():
        return _read_plain
    is_command = Condition(lambda: get_app().current_buffer.text.startswith("/"))
    session: PromptSession[str] = PromptSession(
        multiline=True,
        prompt_continuation=lambda _width, _line, wraps: "" if wraps else CONTINUED,
        history=_History(history, keep=keep),
        completer=ConditionalCompleter(completer, is_command),
        complete_while_typing=is_command,
        key_bindings=_bindings(),
        bottom_toolbar=status,
        style=STYLE,
        enable_suspend=True,
    )
    return partial(_read, session)


def _read(session: "PromptSession[str]", prompt: str, begin: str) -> str:
    """Read with an editor; SIGTERM or SIGHUP ends that, and is then delivered as outside of it.

    An exception that its handler raised would be lost where the event loop runs a callback.
    """
    app = session.app
    arrived: list[int] = []

    def end() -> None:
        if arrived and _is_reading(app):
            app.exit(exception=EOFError())

    def arrive(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        arrived.append(number)
        if app.loop is not None:
            app.loop.call_soon_threadsafe(end)

    held = {number: signal.signal(number, arrive) for number in ENDING if _is_ours(number)}
    try:
        return session.prompt(prompt, default=begin, pre_run=end)
    finally:
        for number, handler in held.items():
            signal.signal(number, handler)
        if arrived:
            signal.raise_signal(arrived[0])


def _is_reading(app: "Application[str]") -> bool:
    """Whether the editor has begun, and no line is taken yet."""
    return app.future is not None and not app.future.done()


def _is_ours(number: int) -> bool:
    return callable(signal.getsignal(number))  # else it is ignored, as nohup has it


def _read_plain(prompt: str, begin: str) -> str:  # noqa: ARG001
    """A line as the terminal's driver edits it, where the cursor can't be moved."""
    try:
        text = read_typed(prompt)
        while is_open(text):
            text += "\n" + read_typed(CONTINUED)
    except (KeyboardInterrupt, EOFError) as key:
        say("")  # the cursor is behind the prompt
        raise (Interrupted if isinstance(key, KeyboardInterrupt) else EOFError) from None
    return text


def _bindings() -> KeyBindings:
    bindings = KeyBindings()
    editing = has_focus(DEFAULT_BUFFER)

    @bindings.add("enter", filter=editing)
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if is_open(buffer.text):
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @bindings.add("escape", "enter", filter=editing)
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @bindings.add("c-c", filter=editing)
    @bindings.add("<sigint>")
    def _(event: KeyPressEvent) -> None:
        buffer = event.app.layout.get_buffer_by_name(DEFAULT_BUFFER)
        if buffer is not None and buffer.text:
            buffer.reset()
        elif _is_reading(event.app):  # else it came as the line was taken
            event.app.exit(exception=Interrupted(), style="class:aborting")

    @bindings.add("<vt100-mouse-event>")
    def _(event: KeyPressEvent) -> None:
        """None is asked for: it is pasted text with a colour in it, which looks like one."""

    return bindings


class _History(FileHistory):
    """What was typed, in a file for its owner's eyes alone, or in memory where it can't be written.

    Texts of more than MAX_TEXT characters, pasted ones, aren't kept; nor are they read, as other
    programs may write there.
    """

    def __init__(self, path: Path, *, keep: bool) -> None:
        super().__init__(path)
        self.keep = keep
        if keep:
            try:
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                path.touch(mode=0o600)
            except OSError:
                self.keep = False

    def load_history_strings(self) -> Iterable[str]:
        try:
            yield from (text for text in super().load_history_strings() if len(text) <= MAX_TEXT)
        except OSError:
            return

    def store_string(self, string: str) -> None:
        if self.keep and len(string) <= MAX_TEXT:
            with suppress(OSError):  # a full disk, say: the chat matters more
                super().store_string(string)
