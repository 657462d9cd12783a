"""run, chat and batch as clients of the user's own server, by its socket."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from llamacli import serve
from llamacli.answer import Chunk, Result
from llamacli.commands import groups
from llamacli.commands.by_server import answer_lines, request_fields
from llamacli.errors import NotFoundError
from llamacli.serve import ask_server
from llamacli.serve.client import begin, interrupted_result
from llamacli.serve.listen import default_socket, listen_on_socket
from tests.standins.program import PROGRAM, run_program
from tests.standins.server import WEB, Serving, serving
from tests.standins.waiting import PATIENCE, ROOM, wait_until
from tests.systems import PLATFORM, needs_unix_sockets

pytestmark = [needs_unix_sockets, pytest.mark.usefixtures("reached")]


def test_a_loaded_model_answers(demo: Path) -> None:
    messages = [{"role": "user", "content": "Hi"}]
    answer = ask_server(demo, {"messages": messages, "temperature": 0, "exact": True})
    assert answer is not None and answer.head["prompt_tokens"] == 14
    chunks: list[Chunk] = list(answer.chunks())
    result = chunks[-1].result
    assert result is not None and result.text == "".join(chunk.text for chunk in chunks)
    assert result.text.startswith("Hello!") and result.finish_reason == "stop"


def test_a_program_with_many_open_files_is_answered(demo: Path) -> None:
    """As batch has with many lines at once: select takes no file beyond the 1,024th."""
    resource: Any = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(limits[1], 2048), limits[1]))
    try:
        with ExitStack() as opened:
            for _ in range(1024):
                opened.callback(os.close, os.open(os.devnull, os.O_RDONLY))
            answer = ask_server(demo, {"prompt": "x", "max_tokens": 1})
            assert answer is not None and list(answer.chunks())[-1].result is not None
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_shape_is_kept(demo: Path) -> None:
    asked = {"prompt": "x", "shape": {"choice": ["yes", "no"]}}
    answer = ask_server(demo, asked)
    assert answer is not None and list(answer.chunks())[-1].result.text in ("yes", "no")


def test_another_file_is_not_answered_for(demo: Path, tmp_path: Path) -> None:
    copy = tmp_path / "demo.gguf"
    copy.write_bytes(demo.read_bytes())
    assert ask_server(copy, {"prompt": "x"}) is None


def test_nobody_listens(demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "none"))
    assert ask_server(demo, {"prompt": "x"}) is None


def test_the_port_does_not_answer_so(server: Serving, demo: Path) -> None:
    body = {"file": str(demo), "identity": [], "prompt": "x"}
    assert WEB.post(f"{server.url}/own/answer", content=json.dumps(body)).status_code == 404


def llamacli(*arguments: str | Path, stdin: str = "", check: int = 0) -> tuple[str, str]:
    done = run_program([*PROGRAM, *arguments], input=stdin, text=True)
    assert done.returncode == check, done.stderr
    return done.stdout, done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["Hi"],
        ["Hi", "--system", "Be brief."],
        ["Tell me more", "--stop", "demo"],
        ["Hi", "--raw", "-n", "20"],
        ["<|eot_id|>", "--raw", "--special", "-n", "20"],
        ["Hi", "--choice", "yes", "--choice", "no"],
        ["What are pipes? " * 60, "-n", "30"],
    ],
)
def test_the_answer_is_the_one_without_it(
    server: Serving, demo: Path, arguments: list[str]
) -> None:
    options = ("-m", demo, "--temp", "0", "--json", "--verbose")
    lines = len(server.told())
    by_server, told = llamacli("run", *arguments, *options)
    assert "a server that has the model loaded answers" in told
    assert any("/own/answer 200" in line for line in server.told()[lines:])
    alone, told = llamacli("run", *arguments, *options, "--no-server")
    assert "a server" not in told
    names = ("text", "finish_reason", "prompt_tokens", "answer_tokens", "model", "quantization")
    served, expected = json.loads(by_server), json.loads(alone)
    assert {n: served[n] for n in names} == {n: expected[n] for n in names}


def test_run_by_it_imports_nothing_that_computes(server: Serving, demo: Path) -> None:
    """Its first byte would come a tenth of a second later."""
    environment = {**os.environ, "PYTHONVERBOSE": "1"}
    command = [*PROGRAM, "run", "-m", str(demo), "-n", "1", "--verbose", "Hi"]
    told = run_program(command, env=environment, text=True).stderr
    assert "a server that has the model loaded answers" in told
    imported = set(re.findall(r"^import '(\S+)' #", told, re.MULTILINE))
    assert "llamacli.serve.client" in imported
    computing = {"numpy", "llama_cpp", "llguidance"}
    if sys.platform == PLATFORM:  # another system's stand-in imports it itself
        computing.add("ctypes")
    assert not imported & computing
    own = re.compile(r"llamacli\.(engine|gguf|tools|shape)\.")
    assert not [name for name in imported if own.match(name)]


def test_calls_are_those_without_it(server: Serving, demo: Path, tmp_path: Path) -> None:
    """The prompt has the tools as their file has them, also what an API's client couldn't send."""
    tools = json.loads((Path(__file__).parents[1] / "demo" / "tools.json").read_text())
    tools[0]["function"]["strict"] = True
    (tmp_path / "tools.json").write_text(json.dumps(tools))
    called = tmp_path / "called.json"
    options = ("-m", demo, "--temp", "0", "--tools", tmp_path / "tools.json", "--verbose")

    def both(*arguments: str | Path) -> str:
        by_server, told = llamacli("run", *arguments, *options)
        assert "a server that has the model loaded answers" in told
        alone, told = llamacli("run", *arguments, *options, "--no-server")
        assert "a server" not in told and by_server == alone
        return by_server

    question = "How large will 70B be on my disk?"
    assert json.loads(both(question))["name"] == "file_size"
    whole, _ = llamacli("run", question, *options, "--json")
    message = {"role": "assistant", "content": None, "tool_calls": json.loads(whole)["tool_calls"]}
    result = {"role": "tool", "tool_call_id": "call_0", "content": "42.5 GB"}
    called.write_text(json.dumps([{"role": "user", "content": question}, message, result]))
    assert both("--results", called)
    llamacli("run", "Hi", *options, "--tool-choice", "none_such", check=2)


def test_other_clients_beside_it_change_nothing(server: Serving, demo: Path) -> None:
    client = server.client()
    streams = [
        client.chat.completions.create(
            model="demo", stream=True, max_tokens=400, temperature=2,
            messages=[{"role": "user", "content": f"Tell me about {i}"}],
        )
        for i in range(3)
    ]  # fmt: skip
    options = ("-m", demo, "--temp", "0")
    by_server, _ = llamacli("run", "What is a pipe?", *options)
    for stream in streams:
        stream.close()
    assert by_server == llamacli("run", "What is a pipe?", *options, "--no-server")[0]


def test_chat_on_a_pipe(server: Serving, demo: Path) -> None:
    lines = len(server.told())
    answer, _ = llamacli("chat", "-m", demo, "--temp", "0", stdin="Hi")
    assert answer.startswith("Hello!")
    assert any("/own/answer 200" in line for line in server.told()[lines:])


def test_what_a_server_can_not_do_is_done_without_it(server: Serving, demo: Path) -> None:
    lines = len(server.told())
    llamacli("run", "Hi", "-m", demo, "-c", "512", "-n", "2")
    llamacli("run", "word " * 9000, "-m", demo, check=5)  # told as without a server
    drafted = ("-m", demo, "--draft", demo, "-n", "2")  # the model that drafts is loaded here
    llamacli("run", "Hi", *drafted)
    llamacli("chat", *drafted, stdin="Hi")
    llamacli("batch", *drafted, stdin="Hi\n")
    assert not any("/own/answer 200" in line for line in server.told()[lines:])


def test_a_server_that_dies_in_the_middle_is_told(
    endless: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving("-m", endless, "-c", "100000") as server:
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(server.runtime))
        command = [sys.executable, "-m", "llamacli", "run", "Hi", "-m", str(endless)]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert child.stdout is not None and child.stdout.read(10)
        server.child.kill()
        _, told = child.communicate(timeout=PATIENCE)
        assert child.returncode == 4 and b"the server is gone" in told


@pytest.mark.parametrize("said", [b"", b'{"error": {"mess'])
def test_a_server_that_dies_in_the_middle_of_a_refusal_is_gone(
    demo: Path, said: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = b"HTTP/1.1 422 X\r\nContent-Length: 99\r\n\r\n"
    with ExitStack() as held:
        runtime = held.enter_context(tempfile.TemporaryDirectory(prefix="llamacli-"))
        pool = held.enter_context(ThreadPoolExecutor())
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
        own = held.enter_context(listen_on_socket(default_socket()))

        def refuse() -> None:
            connection, _ = own.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(head + said)

        done = pool.submit(refuse)
        with pytest.raises(NotFoundError, match="the server is gone"):
            begin(demo, {"prompt": "x"}, lambda: False)
        done.result(PATIENCE)


def test_ctrl_c_ends_the_answer_and_frees_the_server(
    endless: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving("-m", endless, "-c", "100000") as server:
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(server.runtime))
        command = [sys.executable, "-m", "llamacli", "run", "Hi", "-m", str(endless)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "pipesize": ROOM}
        child = subprocess.Popen(command, **pipes)
        assert child.stdout is not None and child.stdout.read(10)
        child.send_signal(signal.SIGINT)
        out, _ = child.communicate(timeout=PATIENCE)
        assert child.returncode == 130 and out.endswith(b"\n")
        url = f"{server.url}/metrics"
        wait_until(lambda: "processing 0.0" in WEB.get(url).text)


def test_batch_asks_it_too(server: Serving, demo: Path, tmp_path: Path) -> None:
    lines = [
        {"id": "a", "prompt": "Hi", "temperature": 0},
        {"id": "b", "prompt": "What is a pipe?", "max_tokens": 5, "temperature": 0},
        {"prompt": 5},
        {"id": "c", "messages": [{"role": "user", "content": "Hi"}], "top_p": 9},
        {"id": "d", "prompt": "word " * 9000},
    ]
    (tmp_path / "in").write_text("\n".join(map(json.dumps, lines)))
    before = len(server.told())
    arguments = ("batch", tmp_path / "in", "-m", demo, "--exact")
    result, told = llamacli(*arguments, check=1)
    assert "a server that has the model loaded answers" in told
    assert any("/own/answer 200" in line for line in server.told()[before:])
    expected, _ = llamacli(*arguments, "--no-server", check=1)
    ours, theirs = ([json.loads(x) for x in t.splitlines()] for t in (result, expected))
    assert [x["id"] for x in ours] == [x["id"] for x in theirs] == ["a", "b", 3, "c", "d"]
    assert [x.get("text") for x in ours] == [x.get("text") for x in theirs]
    assert ["error" in x for x in ours] == ["error" in x for x in theirs]


def test_a_shapes_file_is_read_once(tmp_path: Path) -> None:
    """It may be a pipe, which has nothing left for a server's request then."""
    file = tmp_path / "schema.json"
    file.write_text('{"type": "integer"}')
    shape = groups.Shape(schema=file)
    assert shape.read(groups.Ending())
    file.unlink()
    fields = request_fields(groups.Sampling(), groups.Ending(), shape)
    assert fields["shape"] == {"schema": '{"type": "integer"}'}


def test_a_shape_is_refused_as_without_it(server: Serving, demo: Path, tmp_path: Path) -> None:
    """A word that could never be chosen, and a stop text that would cut one."""
    choice = ("--choice", "yes", "--choice", "a word that is far too long", "-n", "2")
    by_server, without = (
        llamacli("run", "Hi", "-m", demo, *choice, *more, check=2)[1]
        for more in ((), ("--no-server",))
    )
    assert by_server == without and "tokens, 2 are left" in without
    (tmp_path / "in").write_text('{"prompt": "Hi", "stop": "e"}\n{"prompt": "Hi"}\n')
    for more in ((), ("--no-server",)):
        arguments = ("batch", tmp_path / "in", "-m", demo, "--choice", "yes", *more)
        lines = [json.loads(line) for line in llamacli(*arguments, check=1)[0].splitlines()]
        assert [line.get("text") for line in lines] == [None, "yes"]


def test_a_signal_ends_a_batch_though_its_server_hangs(
    demo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And an answer that it cut is none."""
    asked, released = Event(), Event()
    cut = interrupted_result(1, "half an ans", 3)

    def ask(path: Path, body: dict[str, Any], interrupted: Callable[[], bool]) -> Result:
        if body["hangs"]:
            asked.set()
            released.wait(PATIENCE)
        else:
            wait_until(interrupted)
        return cut

    monkeypatch.setattr(serve, "answer_whole", ask)
    bodies = [{"hangs": False}, {"hangs": True}, {"hangs": True}]
    given = {"interrupted": asked.is_set, "on_step": lambda _: None}
    try:
        assert not [*answer_lines(demo, 2, bodies, **given)]
        assert not released.is_set()
    finally:
        released.set()


def test_batch_with_more_lines_than_the_server_takes_at_once(demo: Path) -> None:
    lines = "\n".join(f"line {i}" for i in range(60))
    result, _ = llamacli("batch", "-m", demo, "-n", "3", "-p", "100", stdin=lines)
    assert [json.loads(line)["id"] for line in result.splitlines()] == list(range(1, 61))
