"""`llamacli chat` on a terminal: the keys, the screen, signals, and what a kill leaves."""

import json
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.terminal import PROGRAM, Terminal

CHAT = (*PROGRAM, "chat", "--temp", "0", "--threads", "1", "-m")
ENTER, ALT_ENTER, UP = "\r", "\x1b\r", "\x1b[A"
CTRL_C, CTRL_D, CTRL_R, CTRL_S, CTRL_Z = "\x03", "\x04", "\x12", "\x13", "\x1a"
PASTE = "\x1b[200~{}\x1b[201~"

Start = Callable[..., Terminal]


@pytest.fixture
def start(demo: Path) -> Iterator[Start]:
    """Start a chat with a model, the demo's, at its first prompt."""
    begun: list[Terminal] = []

    def run(*options: str, model: Path = demo, **settings: Any) -> Terminal:
        terminal = Terminal([*CHAT, str(model), *options], **settings)
        begun.append(terminal)
        terminal.prompt()
        return terminal

    yield run
    for terminal in begun:
        terminal.close()


def babble(terminal: Terminal) -> None:
    """Ask the endless model, and read until an answer is under way."""
    asked = ">>> go on"
    before = terminal.text.count(asked)
    terminal.line("go on")

    def is_answering() -> bool:
        text = terminal.text
        return text.count(asked) > before and len(text.rpartition(asked)[2].strip()) > 300

    terminal.until(is_answering, "a long answer")


def said(store: Path, name: str = "*") -> list[dict[str, str]]:
    """The messages in the one session of that name."""
    (path,) = (store / "sessions").glob(f"{name}.jsonl")
    steps = [json.loads(line) for line in path.read_text().splitlines()]
    return [step for step in steps if "role" in step]


def questions(store: Path) -> list[str]:
    return [message["content"] for message in said(store) if message["role"] == "user"]


def test_a_chat_from_first_screen_to_the_end(start: Start, store: Path) -> None:
    chat = start()
    first, second, _ = chat.shown
    assert first == "Demo, Q8_0, 2048 tokens of context, CPU, 1 thread"
    assert second.startswith("session 20") and "/help" in second
    chat.ask("What is GGUF?", "file format")
    chat.ask("Hello", "What would you like to know")
    chat.wait("tokens/s")
    status = next(line for line in chat.lines if "tokens/s" in line)
    assert re.match(r"Demo Q8_0 .* \d+ of 2048 tokens \(\d %\) .* \d+\.\d tokens/s", status)
    chat.type(CTRL_D)
    assert chat.leave() == 0
    assert questions(store) == ["What is GGUF?", "Hello"]
    assert all(path.stat().st_mode & 0o77 == 0 for path in store.glob("history"))


def test_history_goes_on_in_other_chats_and_is_searched(start: Start) -> None:
    chat = start()
    chat.ask("What is GGUF?", "file format")
    chat.ask("Hello", "What would you like")
    chat.line("/exit")
    assert chat.leave() == 0
    chat = start()
    chat.type(UP + UP)  # past /exit
    chat.wait(">>> Hello")
    chat.type(CTRL_C)
    chat.prompt()
    chat.type(CTRL_R + "GGU")
    chat.wait("What is GGUF?")
    chat.type(ENTER)
    chat.until(lambda: chat.shown[-1] == ">>> What is GGUF?", "the line found")
    chat.ask("", "file format")


def test_many_lines_are_one_message(start: Start, store: Path) -> None:
    chat = start("-n", "4")
    chat.type("one" + ALT_ENTER + "two" + ALT_ENTER + "  three")
    chat.wait("...   three")
    chat.ask("", "(cut: max-tokens is reached)")
    chat.line('"""four')
    chat.line("")
    chat.line("five")
    chat.ask('"""', "(cut: max-tokens is reached)")
    lines = "\r".join(f"pasted {i}" for i in range(50))
    chat.type(PASTE.format(lines))
    chat.wait("pasted 49")
    chat.line("")
    chat.until(lambda: len(questions(store)) == 3, "the third question")
    pasted = "\n".join(f"pasted {i}" for i in range(50))
    assert questions(store) == ["one\ntwo\n  three", "four\n\nfive", pasted]
    chat.prompt()
    chat.type("0123456789" * 12)  # a line that is wrapped is none of many
    chat.until(lambda: chat.shown[-1] == "6789" + "0123456789" * 2, "the rest of the line")
    chat.type(CTRL_C)
    chat.ask("\x1b[31mred\x1b[0m", "(cut: max-tokens is reached)")  # no message of a mouse


def test_ctrl_c_ends_an_answer_and_keeps_what_was_said(
    start: Start, endless: Path, store: Path
) -> None:
    chat = start("-c", "100000", model=endless)
    babble(chat)
    chat.type(CTRL_C)
    chat.wait("(interrupted)")
    chat.prompt()
    answer = said(store)[-1]
    assert answer["role"] == "assistant" and len(answer["content"]) > 100
    chat.type("a line that isn't wanted" + CTRL_C)
    chat.prompt()
    assert len(said(store)) == 2
    chat.type(CTRL_C)
    chat.wait("Ctrl-C again leaves")
    chat.prompt()
    chat.type(CTRL_C)
    assert chat.leave() == 0


def test_ctrl_c_while_a_long_prompt_is_read(start: Start, endless: Path, tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_text("word " * 20_000)
    chat = start("-c", "120000", model=endless)
    chat.line(f"/file {tmp_path / 'long.txt'}")
    chat.wait("message)")
    chat.prompt()
    chat.line("What is it about?")
    chat.wait("reading the prompt: ")
    chat.type(CTRL_C)
    chat.wait("(interrupted; /undo takes the question back)")
    chat.prompt()
    assert "reading the prompt" not in chat.text
    chat.ask("/undo", "(taken back: “What is it about? word word")


def test_no_control_sequence_of_the_model_gets_through(start: Start, endless: Path) -> None:
    chat = start("-c", "100000", "-n", "2000", model=endless)
    chat.ask("go on", "(cut")
    answer = chat.raw[chat.raw.index(b"go on") :].decode()
    assert "\u241b" in answer or "\u2400" in answer  # there were some
    sequences = re.sub(r"\x1b(\[[?>\d;]*[A-Za-z]|\][^\x07]*\x07|[78=>(]B?)", "", answer)
    assert not re.search(r"[\x00-\x07\x0b\x0c\x0e-\x1f\x7f-\x9f]", sequences)


def test_keys_during_an_answer_wait_for_the_prompt(start: Start, endless: Path) -> None:
    chat = start("-c", "100000", "-n", "3000", model=endless)
    babble(chat)
    chat.type("/tokens in between")
    chat.wait(">>> /tokens in between")
    assert "(cut" in chat.text
    assert chat.raw.count(b"/tokens") == 1 and chat.raw.index(b"(cut") < chat.raw.index(b"/tokens")


def test_ctrl_d_during_an_answer_leaves_after_it(start: Start, endless: Path) -> None:
    """As every key does, it waits for the prompt; the terminal's driver would make a NUL of it."""
    chat = start("-c", "100000", "-n", "3000", model=endless)
    babble(chat)
    chat.type(CTRL_D)
    assert chat.leave() == 0
    assert "(cut" in chat.text


def test_a_resize_and_a_stopped_job(start: Start, endless: Path) -> None:
    shell = Terminal(["bash", "--norc", "-i"], PS1="sh> ")
    try:
        shell.prompt("sh>")
        command = " ".join([*CHAT, str(endless), "-c", "100000"])
        shell.line(command)
        shell.prompt()
        babble(shell)
        shell.resize(50, 20)
        before = len(shell.raw)
        shell.until(lambda: len(shell.raw) > before + 500, "more after the resize")
        shell.type(CTRL_Z)
        shell.wait("Stopped")
        shell.prompt("sh>")
        before = len(shell.raw)
        shell.line("fg")
        shell.until(lambda: len(shell.raw) > before + 1000, "more after fg")
        shell.type(CTRL_C)
        shell.wait("(interrupted)")
        shell.prompt()
        shell.type("half a line" + CTRL_Z)
        shell.until(lambda: shell.text.count("Stopped") == 2, "the second stop")
        shell.prompt("sh>")
        shell.line("fg")
        shell.until(lambda: shell.shown[-1] == ">>> half a line", "the line again")
        shell.type(CTRL_C + CTRL_D)
        shell.prompt("sh>")
        shell.line("echo code $?")
        shell.wait("code 0")
    finally:
        shell.close()


def test_a_killed_chat_goes_on(start: Start, store: Path) -> None:
    chat = start("--session", "lasting", "--system", "Be kind.")
    chat.ask("What is GGUF?", "file format")
    chat.line("/set top-k 7")
    chat.wait("top-k  7")
    chat.close()
    chat = start("--resume", "lasting")
    assert "session lasting" in chat.text
    assert ">>> What is GGUF?" in chat.text and "file format" in chat.text
    chat.line("/system")
    chat.wait("Be kind.")
    chat.line("/set")
    chat.wait("top-k           7")
    chat.ask("Hello", "What would you like")
    chat.type(CTRL_D)
    assert chat.leave() == 0
    chat = start("--resume")
    assert "session lasting" in chat.text and ">>> Hello" in chat.text
    chat.ask("/regen", "What would you like")
    chat.line("/stats")
    chat.wait("of them cached")
    cached = int(re.findall(r"(\d+) of them cached", chat.text)[-1])
    assert cached > 20  # the KV cache came back with the session
    other = Terminal([*CHAT, "demo", "--resume", "lasting"])
    other.wait("another chat has the session lasting open")
    assert other.leave() == 2


def test_a_full_context_lets_the_oldest_turns_go(start: Start) -> None:
    chat = start("-c", "160")
    chat.ask("What is GGUF?", "file format")
    for _ in range(5):
        chat.ask("Hello", "What would you like")
        if "no longer sees" in chat.text:
            break
    assert "the model no longer sees the" in chat.text and "“What is GGUF?”" in chat.text
    chat.ask("word " * 300, "llamacli: the message takes")
    assert re.search(r"takes \d+ tokens; of the context's 160", chat.text)
    chat.ask("Hello", "What would you like")


@pytest.mark.parametrize(
    ("options", "env"), [(["--plain"], {}), ([], {"NO_COLOR": "1"}), ([], {"TERM": "dumb"})]
)
def test_plain_terminals_get_plain_text(
    start: Start, options: list[str], env: dict[str, str]
) -> None:
    chat = start(*options, **env)
    begin = len(chat.raw)
    chat.ask("What is GGUF?", "file format")
    answer = chat.raw[begin:].decode()
    sentence = re.search(r"GGUF is .* in one file\.\r\n", answer)
    assert sentence is not None and "\x1b" not in sentence[0]
    if "TERM" in env:
        chat.type(CTRL_C)
        chat.wait("\n(Ctrl-C again leaves)")
        assert "\x1b" not in chat.raw.decode()
    if "NO_COLOR" in env:
        assert not re.search(r"\x1b\[[\d;]*[349]\d", chat.raw.decode())
    chat.type(CTRL_D)
    assert chat.leave() == 0


def test_sigterm_leaves_at_once_and_loses_nothing(start: Start, store: Path) -> None:
    chat = start()
    chat.ask("What is GGUF?", "file format")
    chat.kill(signal.SIGTERM)
    assert chat.leave() == 143
    assert questions(store) == ["What is GGUF?"]
    assert "Traceback" not in chat.text


def test_sigterm_leaves_in_mid_answer_on_a_stopped_terminal(start: Start, endless: Path) -> None:
    chat = start("-c", "100000", model=endless)
    babble(chat)
    chat.type(CTRL_S)
    while chat.read(0.5):  # what was on its way
        pass
    chat.kill(signal.SIGTERM)
    assert chat.leave() == 143


def test_sigterm_ends_run_on_a_stopped_terminal(endless: Path) -> None:
    """What was said before Ctrl-S and couldn't be written isn't waited for."""
    command = ["run", "go on", "-c", "100000", "--temp", "0", "--threads", "1", "-m", str(endless)]
    terminal = Terminal([*PROGRAM, *command])
    terminal.until(lambda: len(terminal.text.strip()) > 300, "a long answer")
    terminal.type(CTRL_S)
    terminal.kill(signal.SIGTERM)
    assert terminal.leave() == 143


def test_a_store_that_cannot_be_written_costs_the_saving_alone(
    start: Start, tmp_path: Path, demo: Path
) -> None:
    (tmp_path / "file").write_text("")
    chat = start(LLAMACLI_HOME=str(tmp_path / "file"))
    assert "this chat isn't saved" in chat.text and "not saved; /help" in chat.text
    chat.ask("What is GGUF?", "file format")
    chat.type(CTRL_D)
    assert chat.leave() == 0
