"""A chat on a terminal as a client of the user's own server."""

import json
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from llamacli.answer import Calling
from llamacli.chat import ChatSession, final_answer
from llamacli.engine import Asked, SamplingSettings
from llamacli.errors import NotFoundError
from llamacli.models import open_engine
from llamacli.serve import BY_SERVER, Refused, ServedModel, served_model
from llamacli.serve.client import begin
from llamacli.tools import check_tools
from tests.standins.program import run_program
from tests.standins.server import WEB, serving
from tests.standins.tiny import write_model
from tests.standins.waiting import wait_until
from tests.systems import needs_unix_sockets
from tests.terminal import Terminal
from tests.test_mcp import TOOL_TEMPLATE, command, small_tokenizer
from tests.test_repl import CHAT, CTRL_C, CTRL_D, babble, said

GREEDY = SamplingSettings(temperature=0)
ASKED = Asked(threads=1, profile="long")
HERE = "CPU, 1 thread"

pytestmark = [needs_unix_sockets, pytest.mark.usefixtures("reached")]


def start(*options: str, model: Path) -> Terminal:
    terminal = Terminal([*CHAT, str(model), *options], columns=120)
    terminal.prompt()
    return terminal


def served(model: Path, context: int | None = None) -> ServedModel:
    answer = served_model(model, context, ())
    assert isinstance(answer, ServedModel), answer
    return answer


def talk(chat: ChatSession) -> list[tuple[str, tuple[int, ...], int, int]]:
    """What the answers were, and how much of the prompts was read, with turns changed between."""
    seen = []
    chat.set_system("Answer briefly.")
    for ask in (
        lambda: chat.send("Hello"),
        lambda: chat.send("What is GGUF?"),
        lambda: chat.regenerate(),
        lambda: chat.edit("What is rope scaling?"),
        lambda: chat.send("Tell me more. " * 150),
        lambda: (chat.undo(), chat.send("And pipes?"))[1],
    ):
        for chunk in ask():
            if (result := chunk.result) is not None:
                read = result.prompt_tokens - result.cached_tokens
                seen.append((result.text, result.tokens, result.prompt_tokens, read))
    return seen


def test_the_tokens_are_those_without_it_and_nothing_is_read_again(demo: Path) -> None:
    by_server = talk(ChatSession(served(demo), GREEDY, max_tokens=24))
    with open_engine(demo, ASKED) as engine:
        assert talk(ChatSession(engine, GREEDY, max_tokens=24)) == by_server


def test_calls_of_tools_are_those_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_model(tmp_path / "tools.gguf", tokenizer=small_tokenizer(), template=TOOL_TEMPLATE)
    given = {"type": "function", "function": {"name": "echo", "description": "Says it again."}}
    called: list[dict[str, Any]] = []

    def turn(engine: Any, choice: str) -> list[dict[str, Any]]:
        calling = Calling(check_tools([given]), choice=choice, parallel=False, threshold=1.0)
        chat = ChatSession(engine, GREEDY, max_tokens=40, offer=calling)
        list(final_answer(chat, "x", lambda name, arguments: called.append(arguments) or "y"))
        return chat.messages

    with serving("-m", path) as server, open_engine(path, ASKED) as engine:
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(server.runtime))
        for choice in ("required", "echo", "auto", "none"):
            assert turn(served(path), choice) == turn(engine, choice)
        assert called
        options = (
            "--allow",
            "echo",
            "--tool-choice",
            "echo",
            "--tool-threshold",
            "1",
            "--temp",
            "0",
        )
        line = command(path, "few", *options, "--json", "--verbose")
        by_server, alone = (run_program([*line, *way], text=True) for way in ([], ["--no-server"]))
        assert BY_SERVER in by_server.stderr and BY_SERVER not in alone.stderr
        found, expected = json.loads(by_server.stdout), json.loads(alone.stdout)
        assert found["calls"] and found["calls"] == expected["calls"]
        assert found["text"] == expected["text"]


def test_a_chat_from_first_screen_to_resuming(demo: Path, store: Path) -> None:
    chat = start("--verbose", model=demo)
    assert "a server that has the model loaded answers" in chat.text
    assert "Demo, Q8_0, 2048 tokens of context, by llamacli serve" in chat.text
    chat.ask("What is GGUF?", "file format")
    chat.wait("tokens/s")
    chat.ask("/tokens", "of a context of 2048")
    chat.ask("/regen", "file format")
    chat.ask("Hello", "What would you like")
    chat.ask("/stats", "all answers since the start: 3")
    chat.type(CTRL_D)
    assert chat.leave() == 0
    texts = {message["content"] for message in said(store)}
    assert not list((store / "sessions").glob("*.kv"))
    chat = start("--resume", model=demo)
    assert ">>> Hello" in chat.text and "by llamacli serve" in chat.text
    chat.ask("/regen", "What would you like")
    chat.ask("/stats", "of them cached")
    (total, cached) = re.findall(r"prompt (\d+) tokens, (\d+) of them cached", chat.text)[-1]
    assert int(cached) == int(total) - 1
    chat.close()
    assert texts == {message["content"] for message in said(store)}


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--no-server"], "--no-server"),
        (["-c", "auto"], "a server has it in a context of 2048 tokens"),
        (["--device", "cpu"], "options say how"),
        (["--draft", "demo"], "options say how"),
    ],
)
def test_it_loads_the_model_where_a_server_will_not_do(
    demo: Path, options: list[str], why: str
) -> None:
    chat = start(*options, "-v", model=demo)
    assert f"the model is loaded here: {why}" in chat.text and HERE in chat.text
    chat.close()


def test_a_smaller_context_is_kept_to(demo: Path) -> None:
    chat = start("-c", "160", model=demo)
    assert "160 tokens of context, by llamacli serve" in chat.text
    chat.ask("word " * 300, "llamacli: the message takes")
    assert "of the context's 160" in chat.text
    chat.ask("Tell me more", "more")
    chat.close()


def test_ctrl_c_ends_an_answer_and_a_dead_server_does_not_end_the_chat(
    endless: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving("-m", endless, "-c", "8192") as server:
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(server.runtime))
        chat = start("-n", "3000", model=endless)
        assert "8192 tokens of context, by llamacli serve" in chat.text
        babble(chat)
        chat.type(CTRL_C)
        chat.wait("(interrupted)")
        chat.prompt()
        url = f"{server.url}/metrics"
        wait_until(lambda: "processing 0.0" in WEB.get(url).text)
        assert said(store)[-1]["role"] == "assistant" and len(said(store)[-1]["content"]) > 100
        babble(chat)
        server.child.send_signal(signal.SIGSTOP)  # it hangs, and can still be left
        chat.type(CTRL_C)
        chat.until(lambda: chat.text.count("(interrupted)") == 2, "the second Ctrl-C")
        chat.prompt()
        server.child.send_signal(signal.SIGCONT)
        babble(chat)
        server.child.kill()
        chat.wait("the server is gone in the middle of the answer; /regen answers anew")
        chat.prompt()
        assert [message["role"] for message in said(store)] == ["user", "assistant"] * 3
        chat.line("/set max-tokens 5")
        chat.ask("/regen", "(cut: max-tokens is reached)")
        assert chat.text.count("or has the model no longer: it is loaded here") == 1
        chat.ask("/model", f"8192 tokens of context, {HERE}")
        chat.type(CTRL_D)
        assert chat.leave() == 0


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"tokens": []}, "at least one"),
        ({"tokens": ["a"]}, "a list of whole numbers"),
        ({"tokens": [[1]]}, "a list of whole numbers"),
        ({"tokens": [1.5]}, "a list of whole numbers"),
        ({"tokens": {"1": 2}}, "is a list"),
        ({"tokens": [True]}, "whole numbers"),
        ({"tokens": [-1]}, "the token -1"),
        ({"tokens": [5, 1 << 40]}, "the model knows"),
        ({"tokens": [5] * 2049}, "2049"),
        ({"tokens": [5], "chat": "x" * 1001}, "more than 1000 characters"),
        ({"tokens": [5], "chat": 7}, "chat is a text"),
        ({"tokens": [5], "progress": 1}, "progress is true or false"),
        ({"tokens": [5], "calling": {"tools": [7]}}, "calling.tools"),
        ({"tokens": [5], "repeat_last_n": -1}, "repeat_last_n is 0 to"),
        ({"tokens": [5], "prompt": "x"}, "tokens is not known"),
    ],
)
def test_wrong_requests_are_refused(demo: Path, fields: dict[str, Any], told: str) -> None:
    with pytest.raises(Refused, match=re.escape(told)):
        begin(demo, fields, lambda: False)


def test_a_model_that_is_gone_is_told(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = served(demo)
    assert not model.lost
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert model.lost
    with pytest.raises(NotFoundError, match="the server is gone"):
        list(ChatSession(model, GREEDY).send("Hello"))


def test_what_is_read_of_a_long_prompt_is_told(demo: Path) -> None:
    seen: list[tuple[int, int]] = []
    chat = ChatSession(served(demo), GREEDY, max_tokens=1)
    list(chat.send("word " * 1500, on_progress=lambda *counts: seen.append(counts)))
    total = chat.last.prompt_tokens  # type: ignore[union-attr]
    assert seen == [(count, total) for count in (512, 1024, total)]


def test_the_session_says_nothing_of_a_server(demo: Path, store: Path) -> None:
    """So that it goes on with or without one."""
    start("--session", "a", model=demo).close()
    with_one = (store / "sessions" / "a.jsonl").read_text()
    start("--session", "b", "--no-server", model=demo).close()
    heads = [json.loads(text.splitlines()[0]) for text in (
        with_one, (store / "sessions" / "b.jsonl").read_text())]  # fmt: skip
    for head in heads:
        head["settings"].pop("context", None)
    assert heads[0] == heads[1]
