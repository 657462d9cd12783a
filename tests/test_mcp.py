"""MCP servers that behave and that don't: their tools called, none of them left behind."""

import gzip
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf
import httpx2
import pytest

from llamacli.answer import Calling
from llamacli.chat import ChatSession, final_answer
from llamacli.chat.conversation import read_step, replay
from llamacli.chat.export import export_markdown
from llamacli.chat.file import SessionHead
from llamacli.engine import Engine, EngineSettings, SamplingSettings
from llamacli.errors import LlamacliError, NotFoundError, UsageError
from llamacli.mcp_client import ServerConfig, open_servers, read_servers
from llamacli.mcp_client.connection import offer
from llamacli.mcp_client.servers import Servers
from llamacli.mcp_client.transport import Trace
from llamacli.repl import tools as repl_tools
from llamacli.system import WINDOWS
from llamacli.tools import NOTHING, STOPPED, check_tools
from tests.standins import mcp_server
from tests.standins.tiny import write_model
from tests.standins.vocabulary import TOOL_TEMPLATE, small_tokenizer
from tests.standins.waiting import PATIENCE, wait_until
from tests.terminal import PROGRAM, Terminal

SERVER = mcp_server.__file__
TOKENIZER = small_tokenizer()


def config(how: str, *more: str, name: str = "it") -> ServerConfig:
    return ServerConfig(name, (sys.executable, str(SERVER), how, *more))


def called(how: str, tool: str = "echo", seconds: float = PATIENCE) -> str:
    with open_servers([config(how)], seconds) as servers:
        return servers.call(tool, {"text": "hi"}, lambda: False).text


@pytest.mark.parametrize("how", ["good", "banner", "flood_stderr"])
def test_a_tool_is_called(how: str) -> None:
    assert called(how) == "echo: hi"


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("die_start", "exit code 3.*no configuration found"),
        ("flood_start", "more than 16 MiB"),
        ("noise_start", "this is a log line on stdout"),
        ("no_list", "isn't as MCP has it"),
    ],
)
def test_a_server_that_does_not_start_is_told(how: str, told: str) -> None:
    with pytest.raises(NotFoundError, match=f"(?s){told}"), open_servers([config(how)], PATIENCE):
        pass


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), 1e12])
def test_times_that_are_none_are_refused(seconds: float) -> None:
    with pytest.raises(UsageError, match="time limit"), open_servers([], seconds):
        pass


def test_a_flood_of_blanks_is_one() -> None:
    """Each empty line takes as long to try as another: a GiB of them would take half an hour."""
    trace = Trace()
    trace.ignore(b"\r")
    assert not trace.fault
    trace.ignore(b" " * (1 << 20))
    assert "more than 1 MiB" in trace.fault and not trace.noise


def test_half_an_emoji_loses_no_answer() -> None:
    """Servers in JavaScript cut texts there, and escape the half that is left."""
    assert called("half") == "cut ?"


def test_a_server_that_falls_silent_again_is_told_again() -> None:
    answers = iter([NotFoundError("is gone"), [listed("x")], NotFoundError("is gone")])

    def tools() -> list[SimpleNamespace]:
        answer = next(answers)
        if isinstance(answer, NotFoundError):
            raise answer
        return answer

    portal: Any = SimpleNamespace(call=lambda function: function())
    one: Any = SimpleNamespace(tools=tools)
    servers = Servers(portal, {"a": one})
    told = [servers.refresh() for _ in range(3)]
    assert told == [["a is gone"], ["a has other tools now: x (new)"], ["a is gone"]]


def test_a_server_that_hangs_is_given_up() -> None:
    with pytest.raises(NotFoundError, match="within 2 s"), open_servers([config("hang_start")], 2):
        pass


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("die_call", "exit code 7.*out of luck"),
        ("flood_call", "more than 16 MiB"),
        ("garbage_call", "isn't as MCP has it"),
        ("error_call", "refused"),
    ],
)
def test_what_goes_wrong_with_a_call_is_its_result(how: str, told: str) -> None:
    with open_servers([config(how)], PATIENCE) as servers:
        outcome = servers.call("echo", {"text": "hi"}, lambda: False)
    assert outcome.failed and outcome.text.startswith("Error: echo failed")
    assert all(word in outcome.text for word in told.split(".*"))


def test_a_tool_that_hangs_and_a_list_without_end() -> None:
    with open_servers([config("hang_call")], PATIENCE) as servers:
        servers.connections["it"].seconds = 2
        outcome = servers.call("echo", {"text": "hi"}, lambda: False)
    assert outcome.failed and "didn't answer within 2 s" in outcome.text
    with open_servers([config("endless")], PATIENCE) as servers:
        assert not servers.offered


def test_a_flood_of_tools_is_refused() -> None:
    with (
        pytest.raises(NotFoundError, match="more than 1000 tools"),
        open_servers([config("flood_list")], PATIENCE),
    ):
        pass


@pytest.mark.parametrize(("status", "told"), [(200, "compressed"), (404, "HTTP status 404")])
def test_a_compressed_answer_is_refused(
    monkeypatch: pytest.MonkeyPatch, status: int, told: str
) -> None:
    """16 MiB of it may be 16 GiB."""
    body = gzip.compress(bytes(1 << 20))

    async def answer(_: object, request: httpx2.Request) -> httpx2.Response:
        assert request.headers["accept-encoding"] == "identity"
        headers = {"content-encoding": "gzip", "content-type": "application/json"}
        return httpx2.Response(status, headers=headers, stream=httpx2.ByteStream(body))

    monkeypatch.setattr(httpx2.AsyncHTTPTransport, "handle_async_request", answer)
    there = read_servers(["http://127.0.0.1:9/mcp"])
    with pytest.raises(NotFoundError, match=told), open_servers(there, PATIENCE):
        pass


def spoken(answers: list[httpx2.Request], events: httpx2.Response) -> Callable[..., Any]:
    """What stands for a server over HTTP, which has no stream of events but what is given."""
    results = {
        "initialize": {
            "protocolVersion": "2025-06-18",
            "serverInfo": {"name": "stand-in", "version": "1"},
            "capabilities": {"tools": {}},
        },
        "tools/list": {"tools": mcp_server.TOOLS[:1]},
    }

    async def answer(_: object, request: httpx2.Request) -> httpx2.Response:
        answers.append(request)
        if request.method != "POST":
            return events
        asked = json.loads(await request.aread())
        if "id" not in asked:
            return httpx2.Response(202)
        known = results.get(asked["method"])
        error = {"code": -32000, "message": "refused"}
        body = {"result": known} if known else {"error": error}
        headers = {"mcp-session-id": "1"}
        return httpx2.Response(
            200, headers=headers, json={"jsonrpc": "2.0", "id": asked["id"], **body}
        )

    return answer


@pytest.mark.parametrize(
    "events",
    [
        httpx2.Response(405, headers={"content-encoding": "gzip"}, stream=httpx2.ByteStream(b"")),
        httpx2.Response(404),
        httpx2.Response(500),
    ],
    ids=["compressed", "missing", "failed"],
)
def test_a_server_without_events_is_no_worse_for_it(
    events: httpx2.Response, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What became of that request stands in no later error."""
    asked: list[httpx2.Request] = []
    monkeypatch.setattr(httpx2.AsyncHTTPTransport, "handle_async_request", spoken(asked, events))
    with open_servers(read_servers(["http://127.0.0.1:9/mcp"]), PATIENCE) as servers:
        wait_until(lambda: any(request.method == "GET" for request in asked))
        outcome = servers.call("echo", {"text": "hi"}, lambda: False)
    assert outcome.text == "Error: echo failed: refused"


def test_a_proxy_of_the_environment_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with socket.socket() as proxy:
        proxy.bind(("127.0.0.1", 0))
        proxy.listen()
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        with (
            pytest.raises(NotFoundError),
            open_servers(read_servers(["http://mcp.invalid/mcp"]), 2),
        ):
            pass
        proxy.settimeout(0)
        assert proxy.accept()[0].recv(100).startswith(b"POST http://mcp.invalid/mcp")


def test_a_tool_fails_stops_and_gives_no_text() -> None:
    with open_servers([config("good")], PATIENCE) as servers:
        assert servers.call("fail", {}, lambda: False).text == "Error: the disk is on fire"
        assert "left out" in servers.call("picture", {}, lambda: False).text
        started = time.monotonic()
        stopped = servers.call("wait", {}, lambda: time.monotonic() > started + 0.3)
        assert stopped.stopped


def test_tools_that_can_not_be_offered_are_told() -> None:
    with open_servers([config("bad_schemas")], PATIENCE) as servers:
        assert list(servers.offered) == ["echo"] and len(servers.problems) == 4
    with open_servers([config("twice")], PATIENCE) as servers:
        assert "echo" not in servers.offered and "two tools called echo" in servers.problems[0]


def test_two_servers_tools_of_one_name_get_the_servers() -> None:
    two = [config("few", name="a"), config("few", name="b")]
    with open_servers(two, PATIENCE) as servers:
        assert list(servers.offered) == ["a.echo", "b.echo"]
        assert servers.call("b.echo", {"text": "x"}, lambda: False).text == "echo: x"


def test_no_server_takes_the_name_of_anothers_tool() -> None:
    """Whichever comes first: who allows a.echo means a's."""
    both = {"a": [listed("echo")], "b": [listed("echo"), listed("a.echo"), listed("x")]}
    for order in (both, dict(reversed(both.items()))):
        found, problems = offer(order)
        assert sorted(found) == ["b.echo", "x"]
        assert problems == ["there are two tools called a.echo; both are left out"]


def listed(name: str) -> SimpleNamespace:
    return SimpleNamespace(name=name, description=None, input_schema={"type": "object"})


def test_changed_tools_are_told_and_no_longer_allowed() -> None:
    with open_servers([config("changes")], PATIENCE, ["*"]) as servers:
        assert "echo" in servers.allowed
        servers.call("echo", {"text": "hi"}, lambda: False)
        (told,) = servers.refresh()
        assert "echo (changed)" in told and "fresh (new)" in told
        assert not servers.allowed & {"echo", "fresh"}


def test_a_server_gets_no_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "secret-value")
    assert "secret-value" not in called("good", "environment")


@pytest.mark.skipif(WINDOWS, reason="process groups")
def test_no_process_stays_behind(tmp_path: Path) -> None:
    mark = tmp_path / "pids"
    with (
        pytest.raises(LlamacliError, match="stop"),
        open_servers([config("children", str(mark))], PATIENCE),
    ):
        raise LlamacliError("stop")
    pids = list(map(int, mark.read_text().split()))
    assert len(pids) == 2
    wait_until(lambda: not any(map(runs, pids)))


def runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not (stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z")


def test_configurations_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHO", "me")
    servers = {
        "a": {"command": "x", "args": ["${WHO}", "${NONE:-y}"], "env": {"K": "${env:WHO}"}},
        "b": {"type": "http", "url": "https://x.y/mcp", "headers": {"A": "b"}},
        "c": {"command": "z", "disabled": True},
    }
    path = tmp_path / "mcp.json"
    path.write_text(json.dumps({"mcpServers": servers}))
    a, b, c, d = read_servers([str(path), "uvx 'a b'", "http://localhost:1/mcp"])
    assert (a.command, a.env) == (("x", "me", "y"), {"K": "me"})
    assert (b.url, b.headers) == ("https://x.y/mcp", {"A": "b"})
    assert c.command == ("uvx", "a b") and d.url == "http://localhost:1/mcp"
    assert "secret" not in repr(ServerConfig("n", env={"K": "secret"}))
    monkeypatch.setenv("WHO", "secret\n")
    with_secret = {"url": "https://x.y", "headers": {"A": "Bearer ${WHO}"}}
    path.write_text(json.dumps({"mcpServers": {"a": with_secret}}))
    with pytest.raises(UsageError, match="its header A has a line end") as caught:
        read_servers([str(path)])
    assert "secret" not in str(caught.value)
    for wrong in ({}, {"mcpServers": {"a": {}}}, {"mcpServers": {"a": {"command": "${NONE}"}}}):
        path.write_text(json.dumps(wrong))
        with pytest.raises(UsageError):
            read_servers([str(path)])


def test_a_command_may_end_with_a_file_and_be_long(tmp_path: Path) -> None:
    (tmp_path / "my servers.json").write_text('{"mcpServers": {"a": {"command": "x"}}}')
    (one,) = read_servers([str(tmp_path / "my servers.json")])
    assert one.command == ("x",)
    (one,) = read_servers(["uvx it --config it.json"])
    assert one.command == ("uvx", "it", "--config", "it.json")
    (one,) = read_servers([f"uvx it {'x' * 5000}"])
    assert one.name == "uvx"
    (one,) = read_servers(["~/bin/it ~/docs a~b"])
    assert one.command == (*(str(Path.home() / name) for name in ("bin/it", "docs")), "a~b")
    with pytest.raises(NotFoundError, match="there is no file"):
        read_servers(["missing.json"])
    (one,) = read_servers(["https://me:secret@example.org:8080/mcp"])
    assert one.name == "example.org"


def test_without_the_package_it_is_told_how_to_have_it() -> None:
    code = "import sys; sys.modules['mcp'] = None; from llamacli.__main__ import start; start()"
    line = [sys.executable, "-c", code, "run", "x", "-m", "demo", "--mcp", "x"]
    child = subprocess.run(line, capture_output=True, stdin=-3)
    assert child.returncode == 2 and b"pip install 'llamacli[mcp]'" in child.stderr


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mcp") / "tiny.gguf"
    return write_model(path, tokenizer=small_tokenizer(), template=TOOL_TEMPLATE)


def command(model: Path, how: str, *options: str) -> list[str]:
    server = shlex.join([sys.executable, str(SERVER), how])
    given = ["-m", str(model), "--threads", "1", "--seed", "1", "-n", "60", "--mcp", server]
    return [sys.executable, "-m", "llamacli", "run", "x", *given, *options]


def test_run_calls_until_an_answer_calls_nothing(model: Path) -> None:
    options = ("--allow", "echo", "--tool-choice", "echo", "--tool-threshold", "1", "--json")
    child = subprocess.run(command(model, "few", *options), capture_output=True, stdin=-3)
    assert child.returncode == 0, child.stderr
    parsed = json.loads(child.stdout)
    assert parsed["calls"] and all(call["name"] == "echo" for call in parsed["calls"])
    first = parsed["calls"][0]
    assert first["result"] == f"echo: {first['arguments']['text']}"
    assert b"calls echo" in child.stderr


def test_run_calls_nothing_that_is_not_allowed(model: Path) -> None:
    options = ("--tool-choice", "echo")
    child = subprocess.run(command(model, "few", *options), capture_output=True, stdin=-3)
    assert child.returncode == 2 and b"--allow echo" in child.stderr and not child.stdout


def test_nothing_of_a_server_reaches_the_terminal_raw(model: Path) -> None:
    child = subprocess.run(command(model, "die_start"), capture_output=True, stdin=-3)
    assert child.returncode == 4 and b"exit code 3" in child.stderr
    assert b"\x1b" not in child.stderr and b"\x07" not in child.stderr


@pytest.mark.skipif(WINDOWS, reason="process groups")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_no_server_behind(model: Path, tmp_path: Path, number: int) -> None:
    mark = tmp_path / "pids"
    line = command(model, "hang_start")
    line[line.index("--mcp") + 1] += f" {shlex.quote(str(mark))}"
    child = subprocess.Popen(line, stdin=-3, stderr=subprocess.DEVNULL)
    wait_until(mark.exists)
    child.send_signal(number)
    assert child.wait(PATIENCE) == 128 + number
    wait_until(lambda: not any(runs(int(pid)) for pid in mark.read_text().split()))


def test_a_turn_with_calls_is_kept_read_once_and_shown(model: Path) -> None:
    """Results are text, whatever they hold; the session's steps lead to the same conversation."""
    given = {"type": "function", "function": {"name": "echo"}}
    calling = Calling(check_tools([given]), choice="required", parallel=False, threshold=1.0)
    steps: list[dict[str, object]] = []
    with Engine(model, EngineSettings(threads=1)) as engine:
        chat = ChatSession(engine, SamplingSettings(seed=1), max_tokens=40, offer=calling)
        chat.record = steps.append
        first = chat.prompt_tokens() if chat.messages else []
        (last,) = final_answer(chat, "x", lambda name, arguments: f"{mcp_server.HOSTILE}```\n")
        assert last.result is not None and last.text == chat.messages[-1]["content"]
        assert [m["role"] for m in chat.messages] == ["user", "assistant", "tool", "assistant"]
        assert last.result.cached_tokens > len(first)  # the question's, at least
        assert list(map(read_step, steps)) == steps
        assert replay(steps) == chat.conversation
        controls = engine.vocabulary.control_tokens
        hostile = sum(token in controls for token in chat.prompt_tokens())
        plain = [{**m, "content": "x"} if m["role"] == "tool" else m for m in chat.messages]
        chat.conversation = replay(plain)
        assert sum(token in controls for token in chat.prompt_tokens()) == hostile
    shown = export_markdown(SessionHead(), replay(steps).messages)
    assert "Calls `echo`" in shown and "## Result of echo\n\n````\n" in shown


def test_after_most_calls_it_answers(model: Path) -> None:
    given = {"type": "function", "function": {"name": "echo"}}
    calling = Calling(check_tools([given]), choice="required", parallel=False, threshold=0.0)
    with Engine(model, EngineSettings(threads=1)) as engine:
        chat = ChatSession(engine, SamplingSettings(seed=1), max_tokens=40, offer=calling)
        chat.most_calls = 3
        (last,) = final_answer(chat, "x", lambda name, arguments: "y")
        assert last.result is not None and last.result.finish_reason != "tool_calls"
        assert sum(message["role"] == "tool" for message in chat.messages) == 3


def spelling(writer: gguf.GGUFWriter, text: str) -> None:
    """Weights that say text over and over wherever they may, but for what a call is held to.

    Its letters differ. Attention and feed-forward add nothing: a token's own embedding chooses.
    """
    weights = {name: info.tensor for shard in writer.tensors for name, info in shard.items()}
    for name, values in weights.items():
        if not name.endswith("norm.weight"):
            values[:] = 0
    tokens = [TOKENIZER["model"]["vocab"][letter] for letter in text]
    weights["token_embd.weight"][:, 0] = 1
    weights["output.weight"][tokens[0], 0] = 1
    for place, (token, following) in enumerate(pairwise(tokens), 1):
        weights["token_embd.weight"][token, place] = 9
        weights["output.weight"][following, place] = 1


def test_run_answers_with_the_time_server_of_the_registry(tmp_path: Path) -> None:
    """A server that others wrote, as it is installed from PyPI."""
    model = tmp_path / "utc.gguf"
    write_model(
        model,
        tokenizer=TOKENIZER,
        template=TOOL_TEMPLATE,
        context=4096,
        change=lambda writer: spelling(writer, 'UTC"'),
    )
    server = {"command": sys.executable, "args": ["-m", "mcp_server_time"]}
    (tmp_path / "mcp.json").write_text(json.dumps({"mcpServers": {"time": server}}))
    given = ["-m", str(model), "--threads", "1", "--temp", "0", "-n", "80", "--json"]
    tools = ["--mcp", str(tmp_path / "mcp.json"), "--allow", "get_current_time"]
    line = [sys.executable, "-m", "llamacli", "run", "What time is it?", *given, *tools]
    line += ["--tool-choice", "get_current_time", "--no-parallel-calls"]
    child = subprocess.run(line, capture_output=True, stdin=-3)
    assert child.returncode == 0, child.stderr
    parsed = json.loads(child.stdout)
    (call,) = parsed["calls"]
    assert (call["name"], call["arguments"]) == ("get_current_time", {"timezone": "UTC"})
    result = json.loads(call["result"])
    now = datetime.fromisoformat(result["datetime"])
    assert result["timezone"] == "UTC" and now.utcoffset() == timedelta()
    assert result["day_of_week"] == f"{now:%A}" and result["is_dst"] is False
    assert parsed["text"].startswith("UTC")


def test_the_demos_tools_as_a_server() -> None:
    root = Path(__file__).parents[1]
    server = ServerConfig("demo", (sys.executable, "-m", "demo.server"), cwd=root)
    with open_servers([server], PATIENCE) as servers:
        defined = json.loads((root / "demo" / "tools.json").read_text(encoding="utf-8"))
        assert [tool.given for tool in servers.tools] == defined
        told = servers.call("context_length", {"model": "llama-3.1-8b"}, lambda: False)
    assert json.loads(told.text) == {"model": "llama-3.1-8b", "context": 131_072}


HTTP = """
import sys
from mcp.server.mcpserver import MCPServer
server = MCPServer("sums")
@server.tool()
def add(a: int, b: int) -> int:
    return a + b
server.run(transport="streamable-http", port=int(sys.argv[1]))
"""


def test_a_server_of_the_mcp_package_over_http(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # which isn't asked for what is here
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1")  # which httpx2 can't ask by itself
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    child = subprocess.Popen([sys.executable, "-c", HTTP, str(port)], stderr=subprocess.DEVNULL)

    def listens() -> bool:
        with socket.socket() as one:
            return one.connect_ex(("127.0.0.1", port)) == 0

    try:
        wait_until(listens, child)
        with open_servers(read_servers([f"http://127.0.0.1:{port}/mcp"]), PATIENCE) as servers:
            assert servers.call("add", {"a": 1, "b": 2}, lambda: False).text == "3"
        missing = read_servers([f"http://127.0.0.1:{port}/other"])
        with pytest.raises(NotFoundError, match="404"), open_servers(missing, PATIENCE):
            pass
    finally:
        child.kill()
        child.wait()


@pytest.mark.skipif(WINDOWS, reason="there are no pseudo-terminals")
def test_chat_asks_before_a_call_and_goes_on(model: Path, store: Path) -> None:
    server = shlex.join([sys.executable, str(SERVER), "few"])
    given = ["-m", str(model), "--threads", "1", "--seed", "1", "-n", "60", "--mcp", server]
    choice = ("--tool-choice", "echo", "--tool-threshold", "1")
    chat = Terminal([*PROGRAM, "chat", *given, *choice, "--session", "tools"])
    try:
        chat.prompt()
        chat.ask("/tools", "asks")
        chat.line("one")
        chat.wait("call echo? [y]es")
        chat.line("n")
        chat.wait("the user declined this call")
        chat.prompt()
        chat.line("two")
        chat.until(lambda: chat.text.count("call echo? [y]es") == 2, "the second question")
        chat.line("a")
        chat.wait("← echo: ")
        chat.prompt()
        chat.ask("/tools", "allowed")
        chat.line("/exit")
        assert chat.leave() == 0
    finally:
        chat.close()
    lines = (store / "sessions" / "tools.jsonl").read_text().splitlines()
    roles = [json.loads(line).get("role") for line in lines]
    assert [role for role in roles if role] == ["user", "assistant", "tool", "assistant"] * 2


def test_ctrl_c_before_a_tool_is_asked_stops_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """The user declined nothing."""
    told: list[str] = []

    def say(text: str, *, dim: bool = False) -> None:
        told.append(text)
        if text.startswith("→"):
            raise KeyboardInterrupt

    def results(session: object, perform: Callable[[str, dict[str, object]], str]) -> None:
        assert perform("wait", {}) == STOPPED

    monkeypatch.setattr(repl_tools, "say", say)
    monkeypatch.setattr(repl_tools, "perform_calls", results)
    session = SimpleNamespace(pending=lambda: True)
    assert not repl_tools.make_calls(SimpleNamespace(session=session, servers=None))  # type: ignore[arg-type]
    assert told[-1] == "(wait stopped)"


@pytest.mark.skipif(WINDOWS, reason="there are no pseudo-terminals")
def test_ctrl_c_ends_a_tool_and_not_the_chat(model: Path, tmp_path: Path) -> None:
    server = shlex.join([sys.executable, str(SERVER), "slow"])
    given = ["-m", str(model), "--threads", "1", "--seed", "1", "-n", "60", "--mcp", server]
    choice = ("--allow", "wait", "--tool-choice", "wait", "--tool-threshold", "1")
    chat = Terminal([*PROGRAM, "chat", *given, *choice, "--no-save"])
    try:
        chat.prompt()
        chat.line("one")
        chat.wait("→ wait")
        chat.type("\x03")
        chat.wait("(wait stopped)")
        chat.prompt()
        chat.ask(f"/export {tmp_path / 'chat.md'}", "(written to")
        chat.line("/exit")
        assert chat.leave() == 0
    finally:
        chat.close()
    text = (tmp_path / "chat.md").read_text()
    assert "Calls `wait`" in text and "the user stopped this call" in text


@pytest.mark.skipif(WINDOWS, reason="there are no pseudo-terminals")
def test_the_user_gives_the_results_of_a_files_tools(
    model: Path, tmp_path: Path, store: Path
) -> None:
    """Typed below the call; none where there is nothing, Ctrl-D declines, Ctrl-C ends the turn."""
    (tmp_path / "tools.json").write_text(json.dumps(functions("now")))
    given = ["-m", str(model), "--threads", "1", "--seed", "1", "-n", "60"]
    tools = ("--tools", str(tmp_path / "tools.json"), "--tool-choice", "now")
    chat = Terminal([*PROGRAM, "chat", *given, *tools, "--no-parallel-calls", "--session", "now"])
    try:
        chat.prompt()
        chat.ask("/tools", "you answer")
        for number, typed in enumerate(['"""\r12:00\rand a half\r"""\r', "\r", "\x04", "\x03"], 1):
            chat.line("what time?")
            chat.until(lambda n=number: chat.text.count("result of now>") >= n, "the question")
            chat.type(typed)
            chat.prompt()
        chat.wait("(now stopped)")
        chat.line("/exit")
        assert chat.leave() == 0
    finally:
        chat.close()
    lines = map(json.loads, (store / "sessions" / "now.jsonl").read_text().splitlines())
    results = [line["content"] for line in lines if line.get("role") == "tool"]
    assert results[0] == "12:00\nand a half" and results[1] == NOTHING
    assert "declined" in results[2] and "stopped" in results[3]


def functions(name: str) -> list[dict[str, object]]:
    return [{"type": "function", "function": {"name": name}}]


def test_a_piped_chat_prints_calls_as_run_does(model: Path, tmp_path: Path) -> None:
    (tmp_path / "tools.json").write_text(json.dumps(functions("now")))
    given = ["-m", str(model), "--threads", "1", "--temp", "0", "--no-parallel-calls"]
    tools = ["--tools", str(tmp_path / "tools.json"), "--tool-choice", "required"]
    child = subprocess.run([*PROGRAM, "chat", *given, *tools], input=b"x", capture_output=True)
    assert child.returncode == 0, child.stderr
    assert json.loads(child.stdout)["name"] == "now"
