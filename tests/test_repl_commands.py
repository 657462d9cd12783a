"""The slash commands of `llamacli chat`, each in the real program."""

import asyncio
import base64
import os
import re
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.completion import DummyCompleter
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from llamacli.chat import ChatSession
from llamacli.engine import Asked, SamplingSettings
from llamacli.models import open_engine
from llamacli.prompt import Message, Spelled, encode_turns
from llamacli.repl import loop, markdown
from llamacli.repl.commands import COMMANDS
from llamacli.repl.editor import make_editor
from llamacli.repl.markdown import MarkdownStream
from llamacli.repl.state import Repl, status_line
from tests.conftest import ROOT
from tests.systems import PLATFORM
from tests.terminal import Terminal
from tests.test_repl import CHAT, CTRL_C, CTRL_D, PASTE, questions, said

TAB = "\t"


@pytest.fixture
def chat(demo: Path, store: Path) -> Iterator[Terminal]:
    terminal = Terminal([*CHAT, str(demo), "--session", "first"], columns=180)
    terminal.prompt()
    yield terminal
    terminal.close()


def test_help_and_completion_name_every_command(chat: Terminal) -> None:
    chat.ask("/help", "Ctrl-R searches")
    for name, command in COMMANDS.items():
        assert re.search(rf"^/{name} .*{re.escape(command.help)}$", chat.text, re.MULTILINE)
    chat.type("/se")
    chat.wait("list the saved chats")  # the menu shows what a name does
    chat.type("t temp")
    chat.wait("temperature")
    chat.type(TAB)
    chat.wait(">>> /set temperature")
    chat.type(CTRL_C)
    chat.prompt()
    chat.ask("/halp", "there is no command /halp; did you mean /help?")
    chat.ask("/xyzzy", "there is no command /xyzzy; /help lists them")
    chat.ask("/exit now", "/exit takes nothing behind it")
    chat.line("/bye")
    assert chat.leave() == 0


def test_a_turn_goes_the_way_that_the_readme_tells(
    demo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In that order, and through few files beside them."""
    told = (ROOT / "README.md").read_text().partition("A turn of a chat")[2].partition("\n- ")[0]
    way = re.findall("`([a-z]+/[a-z]+)`", told)
    drawn = partial(MarkdownStream, size=lambda: os.terminal_size((80, 24)))
    monkeypatch.setattr(markdown, "MarkdownStream", drawn)
    monkeypatch.setattr(loop, "held_keys", nullcontext)
    crossed: dict[str, None] = {}

    def note(frame: FrameType, event: str, _: object) -> None:
        name = frame.f_globals.get("__name__", "")
        if event == "call" and name.startswith("llamacli.") and frame.f_code.co_name != "<module>":
            crossed[name.removeprefix("llamacli.").replace(".", "/")] = None

    encoded: list[object] = []

    def encode(model: Spelled, messages: list[Message], **more: Any) -> list[int]:
        encoded.append(messages)
        return encode_turns(model, messages, **more)

    monkeypatch.setattr("llamacli.chat.turns.encode_turns", encode)
    with open_engine(demo, Asked(context=512)) as engine:
        chat = ChatSession(engine, SamplingSettings(temperature=0), max_tokens=16)
        repl = Repl(chat, "demo", lambda *_: engine)
        loop.turn(repl, "Hello")
        sys.setprofile(note)
        try:
            loop.turn(repl, "What is GGUF?")
        finally:
            sys.setprofile(None)
        used = re.search(r"(\d+) of 512 tokens", status_line(repl))
        assert len(encoded) == 2  # once a turn: the status line has what the answer told
        assert used is not None and 0 < len(chat.prompt_tokens()) - int(used[1]) < 10
    assert len(chat.messages) == 4 and len(way) == 7
    assert [name for name in crossed if name in way[:-1]] == way[:-1] and way[-1] in crossed
    assert len(crossed) <= 21, list(crossed)


def test_ctrl_c_too_late_for_an_answer_does_not_end_the_chat(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Pressed as the answer ends by itself, or once more as the first one is told of."""
    typed = iter([KeyboardInterrupt, "/nothing", KeyboardInterrupt, EOFError])

    def read(*_: str) -> str:
        line = next(typed)
        if not isinstance(line, str):
            raise line
        return line

    def complain(error: Exception) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "make_editor", lambda *_, **__: read)
    monkeypatch.setattr(loop, "complain", complain)
    session: Any = SimpleNamespace(engine=None, conversation=None)
    loop.talk(Repl(session, "demo", lambda *_: session.engine))
    assert not [*typed]


def test_ctrl_c_as_a_line_is_taken_is_no_error(tmp_path: Path) -> None:
    """Its signal may be handled when the editor has ended."""
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        read: Any = make_editor(tmp_path / "history", DummyCompleter(), str)
        (session,) = read.args
        keys.send_text("a line\r")
        assert read(">>> ", "") == "a line"
        session.default_buffer.reset()

        async def late() -> None:
            session.app.key_processor.send_sigint()

        asyncio.run(late())


def test_the_page_on_chat_names_every_command() -> None:
    page = (ROOT / "docs" / "chat.md").read_text()
    for name, command in COMMANDS.items():
        assert f"| `/{name} {command.arguments}".rstrip() + "` |" in page


def test_the_conversation_can_be_changed(chat: Terminal, store: Path) -> None:
    chat.ask("/tokens", "0 tokens in the prompt so far")
    chat.ask("/regen", "nothing has been asked yet")
    chat.ask("/undo", "nothing has been asked yet")
    chat.ask("/edit", "nothing has been asked yet")
    chat.ask("/copy", "there is no answer to copy yet")
    chat.ask("What is GGUF?", "file format")
    chat.ask("/regen", "file format")
    chat.line("/edit")
    chat.wait("edit> What is GGUF?")
    chat.type("\x15" + "Hello")
    chat.wait("edit> Hello")
    chat.ask("", "What would you like")
    chat.line("/edit")
    chat.until(lambda: chat.shown[-1] == "edit> Hello", "the question")  # not the one above
    chat.type(CTRL_C + CTRL_C)
    chat.wait("(the question stays as it was)")
    chat.ask("/edit What is GGUF?", "file format")
    chat.ask("/Tokens", "tokens in the prompt so far, of a context of 2048")
    chat.ask("/tokens a b c", "3 tokens")
    chat.ask("/stats", "all answers since the start: 4")
    chat.ask("/undo", "(taken back: “What is GGUF?”)")
    chat.ask("/undo", "nothing has been asked yet")
    chat.ask("/system Be kind.", "(the system prompt is set)")
    chat.ask("/system", "Be kind.")
    chat.ask("/system -", "(no system prompt from now on)")
    chat.ask("/system", "(no system prompt)")
    chat.ask("Hello", "What would you like")
    assert "Demo Q8_0  ·  0 of" not in chat.screen.display[-1]
    chat.ask("/reset", "(forgotten)")
    chat.until(lambda: "Demo Q8_0  ·  0 of 2048" in chat.screen.display[-1], "the status line")
    chat.ask("/undo", "nothing has been asked yet")


def test_settings_are_checked_and_hold(chat: Terminal) -> None:
    chat.ask("/set", "max-tokens")
    assert re.search(r"temperature +0 ", chat.text)
    chat.ask("/set max-tokens 3", "max-tokens  3")
    chat.ask("Hello", "(cut: max-tokens is reached)")
    chat.ask("/set top_p=0.5", "top-p  0.5")
    chat.ask("/set top-p 7", "top-p is 7.0; give 0 to 1")
    chat.ask("/set top-k many", "top-k is a whole number, not 'many'")
    chat.ask("/set seed x", "seed is a whole number or none, not 'x'")
    chat.ask("/set seed 42", "seed  42")
    chat.ask("/set seed none", "seed  none")
    chat.ask("/set max-tokens 0", "max-tokens is 0; give 1 or more, or none")
    chat.ask("/set colour red", "there is no setting colour")
    chat.ask("/set max-tokens none", "max-tokens  none")
    chat.ask("Hello", "What would you like to know about llamacli?")


def test_files_copies_and_exports(chat: Terminal, store: Path, tmp_path: Path) -> None:
    (tmp_path / "a text.md").write_text("the file's text\n")
    (tmp_path / "broken").write_bytes(b"\xff")
    (tmp_path / "long").write_text("word " * 3000)
    chat.ask(f"/file {tmp_path / 'long'}", "goes below your next message")
    chat.ask("sum it up", "(the message is dropped, and its files")
    chat.ask(f"/file {tmp_path / 'nowhere'}", "there is no file")
    chat.ask(f"/file {tmp_path / 'broken'}", "is not UTF-8")
    chat.ask(f"/file {tmp_path / 'a text.md'}", "goes below your next message")
    chat.line("What is GGUF?")
    chat.until(lambda: len(said(store)) == 2, "an answer")
    assert questions(store) == ["What is GGUF?\n\nthe file's text\n"]
    chat.ask("What is GGUF?", "in one file.")
    path = tmp_path / "out.md"
    chat.ask(f"/export {path}", "(written to")
    text = path.read_text()
    assert text.index("## User") < text.index("What is GGUF?") < text.index("## Assistant")
    chat.ask(f"/export {path}", "is there already")
    chat.ask(f"/export {tmp_path / 'no' / 'where.md'}", "can't be written")
    assert path.read_text() == text


def ask_and_copy(chat: Terminal, how: str) -> None:
    chat.prompt()
    chat.ask("What is GGUF?", "file format")
    chat.ask("/copy", how)


@pytest.mark.skipif(PLATFORM != "linux", reason="others have a clipboard in any case")
def test_an_answer_is_copied_by_what_there_is(demo: Path, store: Path, tmp_path: Path) -> None:
    command = [*CHAT, str(demo), "--session", "first"]
    chat = Terminal(command, DISPLAY="", WAYLAND_DISPLAY="")
    ask_and_copy(chat, "sent to the terminal's clipboard by OSC 52")
    sequence = re.search(rb"\x1b\]52;c;([\w+/=]+)\x07", chat.raw)
    assert sequence is not None
    assert base64.b64decode(sequence[1]).decode() == said(store)[-1]["content"]
    chat.close()
    for name in ("xclip", "xsel"):
        (tmp_path / name).write_text(f"#!/bin/sh\ncat > '{tmp_path}/copied'\n")
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    chat = Terminal([*command[:-2], "--no-save"], DISPLAY=":0", WAYLAND_DISPLAY="", PATH=path)
    ask_and_copy(chat, "characters copied to the clipboard")
    assert (tmp_path / "copied").read_text().startswith("GGUF is")
    chat.close()
    chat = Terminal([*command[:-2], "--no-save"], DISPLAY="", WAYLAND_DISPLAY="", TERM="dumb")
    ask_and_copy(chat, "there is no clipboard here")
    chat.close()


def test_sessions_are_listed_saved_and_loaded(chat: Terminal, store: Path) -> None:
    chat.ask("What is GGUF?", "file format")
    chat.ask("/save second", "(saved as second, and goes on there)")
    chat.ask("Hello", "What would you like")
    chat.ask("/sessions", "* second")
    assert re.search(r"  first +20\d\d-.* 1 turns? +\S+ +What is GGUF\?", chat.text)
    assert re.search(r"\* second +20\d\d-.* 2 turns", chat.text)
    chat.ask("/load nothing", "there is no session nothing")
    chat.ask("/load second", "this is second already")
    chat.ask("/save first", "there is a session first already")
    chat.ask("/load first", "session first; /help")
    chat.ask("/undo", "(taken back: “What is GGUF?”)")
    chat.ask("/undo", "nothing has been asked yet")
    chat.type(CTRL_D)
    assert chat.leave() == 0
    assert [m["content"] for m in said(store, "second")][::2] == ["What is GGUF?", "Hello"]


def test_another_model_takes_the_conversation_over(
    chat: Terminal, endless: Path, demo: Path
) -> None:
    chat.ask("What is GGUF?", "file format")
    chat.ask("/model", "Demo, Q8_0, 2048 tokens")
    chat.ask("/model nothing-like-it", "there is no model nothing-like-it")
    chat.ask("/set max-tokens 5", "max-tokens  5")
    chat.ask(f"/model {endless}", "Tiny, F32, 8192 tokens of context")
    chat.ask("go on", "(cut: max-tokens is reached)")
    chat.ask(f"/model {demo}", "Demo, Q8_0, 2048 tokens of context")
    chat.ask("/set max-tokens none", "max-tokens  none")
    chat.ask("Hello", "What would you like")
    chat.ask("/undo", "“Hello”")
    chat.ask("/undo", "“go on”")
    chat.ask("/undo", "“What is GGUF?”")


def test_a_slash_that_is_no_command_is_a_message(chat: Terminal, store: Path) -> None:
    chat.ask("/set max-tokens 2", "max-tokens  2")
    chat.ask("/usr/bin/env what?", "(cut")
    chat.ask(" /help me", "(cut")
    chat.type(PASTE.format("/* a comment */\r/help"))
    chat.ask("", "(cut")
    chat.ask('"""/exit"""', "(cut")
    pasted = "/* a comment */\n/help"
    assert questions(store) == ["/usr/bin/env what?", " /help me", pasted, "/exit"]
