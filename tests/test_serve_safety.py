"""Who may ask, what a bad client can do, and how the server ends."""

import asyncio
import json
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn
from uvicorn.server import ServerState

from llamacli.batch import BatchEngine
from llamacli.engine import EngineSettings
from llamacli.serve import run
from llamacli.serve.answers import Desk
from llamacli.serve.app import Server, make_app
from llamacli.serve.guard import Rules, check, own_hosts
from llamacli.serve.listen import identity, listen_on_port
from llamacli.serve.metrics import Metrics
from llamacli.serve.options import Options
from llamacli.serve.pool import Pool
from llamacli.serve.run import GRACE
from llamacli.serve.worker import Worker
from tests.standins.server import HASTY, PATIENT, WEB, Serving, serving
from tests.standins.tiny import write_model
from tests.standins.waiting import PATIENCE, wait_until
from tests.systems import needs_signals, needs_unix_sockets

HELLO: Any = [{"role": "user", "content": "Hi"}]
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def server(endless: Path) -> Iterator[Serving]:
    with serving("-m", endless, "-c", "4096", "--parallel", "2") as started:
        yield started


@pytest.fixture(scope="module")
def locked(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text("# mine\nfirst-key\n\nsecond-key\n")
    with serving("-m", demo, "--api-key-file", keys, "--cors", "https://good.example") as started:
        yield started


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.", "", ".", "[", "x:y:z"]
)
def test_a_name_that_is_not_the_servers_is_refused(server: Serving, host: str) -> None:
    """DNS rebinding: a page's own name that leads here."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as raw:
        raw.sendall(f"GET /v1/models HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        assert re.match(rb"HTTP/1.1 40[03] ", raw.recv(100))


@pytest.mark.parametrize(
    "host", ["localhost", "localhost.:1", "127.0.0.1:99", "[::1]:8080", "192.168.7.7"]
)
def test_addresses_and_own_names_are_known(server: Serving, host: str) -> None:
    answer = WEB.get(f"{server.url}/v1/models", headers={"Host": host})
    assert answer.status_code == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1", "http://["])
def test_pages_of_others_are_refused(server: Serving, origin: str) -> None:
    answer = WEB.post(f"{server.url}{CHAT}", json={}, headers={"Origin": origin})
    assert answer.status_code == 403 and "access-control-allow-origin" not in answer.headers


def test_the_servers_own_page_may_ask(server: Serving) -> None:
    answer = WEB.get(f"{server.url}/v1/models", headers={"Origin": server.url})
    assert answer.status_code == 200


def test_cors_lets_in_what_was_named(locked: Serving) -> None:
    origin = {"Origin": "https://good.example"}
    asked = {**origin, "Access-Control-Request-Method": "POST",
             "Access-Control-Request-Headers": "authorization, content-type"}  # fmt: skip
    before = WEB.options(f"{locked.url}{CHAT}", headers=asked)
    assert before.status_code == 200
    assert before.headers["access-control-allow-origin"] == "https://good.example"
    assert "authorization" in before.headers["access-control-allow-headers"].lower()
    key = {"Authorization": "Bearer first-key"}
    answer = WEB.get(f"{locked.url}/v1/models", headers={**origin, **key})
    assert answer.headers["access-control-allow-origin"] == "https://good.example"
    other = WEB.options(f"{locked.url}{CHAT}", headers={**asked, "Origin": "https://bad.example"})
    assert other.status_code == 403


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": "Bearer wrong-key"}, 401),
        ({"Authorization": "first-key"}, 401),
        ({"Authorization": "Bearer first-key"}, 200),
        ({"Authorization": "bearer second-key"}, 200),
        ({"x-api-key": "second-key"}, 200),
        ({"x-api-key": "# mine"}, 401),
    ],
)
def test_keys(locked: Serving, headers: dict[str, str], status: int) -> None:
    answer = WEB.get(f"{locked.url}/v1/models", headers=headers)
    assert answer.status_code == status
    assert WEB.get(f"{locked.url}/health").status_code == 200
    assert not any("key" in line and "GET" in line for line in locked.log)


@needs_unix_sockets
def test_the_socket_is_the_users_alone_and_needs_no_key(locked: Serving) -> None:
    assert stat.S_IMODE(locked.socket.stat().st_mode) == 0o600
    transport = httpx2.HTTPTransport(uds=str(locked.socket))
    with httpx2.Client(transport=transport) as client:
        assert client.get("http://anything/v1/models").status_code == 200


def test_rules_without_a_server() -> None:
    def scope(**headers: str) -> dict[str, Any]:
        pairs = [(n.encode(), v.encode()) for n, v in headers.items()]
        return {"type": "http", "path": "/v1/models", "method": "GET", "headers": pairs}

    rules = Rules(own_hosts("0.0.0.0"), frozenset({"*"}), ())
    check(rules, scope(host="localhost:1", origin="https://any.example"))
    check(rules, scope(host="host.docker.internal:8080"))  # as docs/serve.md has a container ask
    for host in ("box.example", "box.example.:1"):
        check(Rules(own_hosts("box.example.")), scope(host=host))


def test_a_page_that_is_let_in_reads_what_is_wrong(locked: Serving) -> None:
    """A browser keeps it from the page without the header, and tells it of a network error."""
    origin = {"Origin": "https://good.example"}
    answer = WEB.get(f"{locked.url}/v1/models", headers=origin)
    assert answer.status_code == 401 and answer.json()["error"]["code"] == "invalid_api_key"
    assert answer.headers["access-control-allow-origin"] == "https://good.example"
    asked = {**origin, "Access-Control-Request-Method": "POST",
             "Access-Control-Request-Private-Network": "true"}  # fmt: skip
    before = WEB.options(f"{locked.url}{CHAT}", headers=asked)
    assert before.status_code == 200
    assert before.headers["access-control-allow-private-network"] == "true"


def test_no_client_says_that_it_is_another(server: Serving) -> None:
    before = len(server.told())
    WEB.get(f"{server.url}/health", headers={"X-Forwarded-For": "9.9.9.9"})
    asked, _ = server.told()[before:]
    assert "127.0.0.1 GET /health 200" in asked and "9.9.9.9" not in asked


def test_an_open_address_needs_a_key_or_a_word(demo: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "llamacli", "serve", "-m", str(demo), "--host", "0.0.0.0"]
    done = subprocess.run(command, capture_output=True, timeout=PATIENCE, text=True)
    assert done.returncode == 2 and "--no-key" in done.stderr
    empty = tmp_path / "keys"
    empty.write_text("# none\n")
    done = subprocess.run(
        [*command, "--api-key-file", str(empty)], capture_output=True, timeout=PATIENCE, text=True
    )
    assert done.returncode == 2 and "no key" in done.stderr


def test_bodies_that_are_too_large(server: Serving) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as raw:
        head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n\r\n"
        raw.sendall(head.encode())
        assert raw.recv(100).startswith(b"HTTP/1.1 413 ")

    def endless() -> Iterator[bytes]:
        for _ in range(40):
            yield b" " * (1 << 20)

    answer = WEB.post(f"{server.url}{CHAT}", content=endless())
    assert answer.status_code == 413


def test_headers_that_are_too_large(server: Serving) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as raw:
        raw.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 200_000)
        assert raw.recv(100).startswith(b"HTTP/1.1 4") or not raw.recv(1)


def test_half_open_connections_stop_nobody(server: Serving) -> None:
    held = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(100)]
    for raw in held[::2]:
        raw.sendall(f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Le".encode())
    assert WEB.get(f"{server.url}/health").status_code == 200
    for raw in held:
        raw.close()


def test_no_connection_stays_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not one that sends a request by and by, be it the second, nor one that doesn't read its
    answer, be it a stream; but one whose answer takes long."""
    assert run.IDLE == 30
    monkeypatch.setattr(run, "IDLE", 0.2)
    large = b"x" * (8 << 20)  # more than the system takes of it by itself

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/slow":
            await asyncio.sleep(1)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while scope["path"] == "/stream" and states.connections:
            await send({"type": "http.response.body", "body": large, "more_body": True})
        body = large if scope["path"] == "/large" else b"answer"
        await send({"type": "http.response.body", "body": body})

    async def ask(port: int, path: str, more: bytes = b"") -> bytes:
        """The answer's start; more is sent again and again until the server ends it."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 10)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        answer = await reader.read(1 << 10)
        while states.connections:
            writer.write(more)
            await asyncio.sleep(0.05)
        writer.transport.abort()
        return answer

    states = ServerState()

    async def drive() -> None:
        config = uvicorn.Config(app, log_config=None, timeout_keep_alive=int(PATIENCE))
        listening = await asyncio.get_running_loop().create_server(
            lambda: run._Protocol(config=config, server_state=states, app_state={}), "127.0.0.1", 0
        )
        port = listening.sockets[0].getsockname()[1]
        async with asyncio.timeout(PATIENCE):
            assert b"200" in await ask(port, "/slow")
            assert b"200" in await ask(port, "/", b"G")
            assert b"200" in await ask(port, "/large")
            assert b"200" in await ask(port, "/stream")
        listening.close()

    asyncio.run(drive())


def test_a_slow_reader_loses_its_stream_not_the_servers_memory(server: Serving) -> None:
    """Its answers are long, and it reads none of them."""
    body = json.dumps({"messages": HELLO, "stream": True, "logprobs": True, "top_logprobs": 20})
    raw = socket.create_connection(("127.0.0.1", server.port))
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    raw.sendall((head + body).encode())
    before = server.memory()
    client = server.client()
    answer = client.chat.completions.create(model="endless", messages=HELLO, max_tokens=50)
    assert answer.choices[0].finish_reason == "length"
    wait_until(lambda: "processing 0.0" in WEB.get(f"{server.url}/metrics").text)
    assert server.memory() < before + (64 << 20)
    raw.close()


def test_a_whole_answer_on_its_way_out_has_no_place_in_the_queue(tmp_path: Path) -> None:
    """Who reads it slowly would keep others from being answered."""
    path, settings = write_model(tmp_path / "tiny.gguf"), EngineSettings(context=256, threads=1)
    options = Options({"tiny": path}, lambda path: BatchEngine(path, settings, 1))
    parts = [{"type": "http.request", "body": b'{"prompt": [5, 6], "max_tokens": 2}'}]
    seen = list[tuple[int, int]]()

    async def ask() -> None:
        pool = Pool(Worker(), Metrics(), options)
        desk = Desk(pool)

        async def receive() -> Any:
            return parts.pop() if parts else await asyncio.Event().wait()

        async def send(_: Any) -> None:
            seen.append((desk.pending, sum(model.uses for model in pool.loaded.values())))

        scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": [],
                 "query_string": b"", "own": False, "told": []}  # fmt: skip
        await make_app(Server(desk, ready=True))(scope, receive, send)
        await pool.worker.stop()

    asyncio.run(ask())
    assert seen == [(0, 0), (0, 0)]


def test_a_client_that_is_killed_frees_its_sequence(server: Serving) -> None:
    script = (
        f"import urllib.request as u\nr=u.urlopen('{server.url}{CHAT}',"
        f"b'{json.dumps({'messages': HELLO, 'stream': True})}')\nprint(r.readline(),flush=True)\n"
        "import time\ntime.sleep(99)"
    )
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert child.stdout is not None and child.stdout.readline()
    child.kill()
    child.communicate()
    wait_until(lambda: "processing 0.0" in WEB.get(f"{server.url}/metrics").text)


def test_work_that_fails_ends_no_engines_thread(capsys: pytest.CaptureFixture[str]) -> None:
    """By an error of ours: who asks next would wait for ever."""

    def fail() -> None:
        raise ZeroDivisionError

    async def ask() -> str:
        worker = Worker()
        worker.do(fail)
        told = await asyncio.wait_for(worker.call(lambda: "there"), PATIENCE)
        await worker.stop()
        return told

    assert asyncio.run(ask()) == "there"
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_health_answers_throughout_a_storm(server: Serving) -> None:
    """Streams and whole answers from 24 threads, all of which hang up, until it has answered 60
    times; then nothing runs any more."""
    enough, hung_up = threading.Event(), list[int]()

    def storm(number: int) -> None:
        body = {"messages": HELLO, "stream": number % 2 == 0, "max_tokens": 500}
        while not enough.is_set():
            wait = 0.2 + number / 50
            with (
                suppress(httpx2.TimeoutException),
                WEB.stream("POST", f"{server.url}{CHAT}", json=body, timeout=wait) as answer,
            ):
                next(answer.iter_bytes(), b"")
            hung_up.append(number)

    with ThreadPoolExecutor(24) as pool:
        storms = [pool.submit(storm, number) for number in range(24)]
        try:
            answers = []
            while len(answers) < 60 or len(set(hung_up)) < 24:
                answers.append(WEB.get(f"{server.url}/health").status_code)
        finally:
            enough.set()
        for one in storms:
            one.result()
    assert set(answers) == {200}
    wait_until(lambda: "processing 0.0" in WEB.get(f"{server.url}/metrics").text)


def test_a_line_a_request_and_no_prompt_in_it(server: Serving) -> None:
    before = len(server.told())
    body = {"messages": [{"role": "user", "content": "a secret"}], "max_tokens": 1}
    WEB.post(f"{server.url}{CHAT}?q=secret", json=body)
    WEB.get(f"{server.url}/%1b[31m%0aforged")
    secret, forged, _ = server.told()[before:]
    assert re.search(r"127\.0\.0\.1 POST /v1/chat/completions 200 \d+ ms", secret)
    assert "secret" not in secret
    assert "404" in forged and "\x1b" not in forged and "forged" in forged


# How it ends


@needs_signals
def test_sigterm_lets_running_answers_end(endless: Path) -> None:
    with serving("-m", endless, "-c", "2048", program=PATIENT) as server:
        stream = server.client().chat.completions.create(
            model="endless", messages=HELLO, stream=True, max_tokens=300
        )
        chunks = iter(stream)
        next(chunks)
        server.child.send_signal(signal.SIGTERM)
        assert [c.choices[0].finish_reason for c in chunks][-1] == "length"
        assert server.child.wait(PATIENCE) == 143
        assert not server.socket.exists()


@needs_signals
def test_after_ten_seconds_running_answers_end_with_an_error(endless: Path) -> None:
    """A second here, in place of the ten."""
    assert GRACE == 10
    with serving("-m", endless, "-c", "100000", program=HASTY) as server:
        body = {"messages": HELLO, "stream": True}
        with WEB.stream("POST", f"{server.url}{CHAT}", json=body) as answer:
            lines = answer.iter_lines()
            next(lines)
            began = time.monotonic()
            server.child.send_signal(signal.SIGTERM)
            told = [line for line in lines if line.startswith("data: ")]
        assert "the server stops" in told[-2] and told[-1] == "data: [DONE]"
        assert time.monotonic() - began > 0.9
        assert server.child.wait(PATIENCE) == 143


@needs_signals
def test_sigint_twice_ends_at_once(endless: Path) -> None:
    """Though running answers have no end, nor the time that they get."""
    with serving("-m", endless, "-c", "100000", program=PATIENT) as server:
        stream = server.client().chat.completions.create(
            model="endless", messages=HELLO, stream=True
        )
        next(iter(stream))
        server.child.send_signal(signal.SIGINT)
        wait_until(lambda: _refuses(server), server.child)  # two at once would be one
        server.child.send_signal(signal.SIGINT)
        assert server.child.wait(PATIENCE) == 130


def _refuses(server: Serving) -> bool:
    try:
        return WEB.get(f"{server.url}/health").status_code == 503
    except httpx2.TransportError:
        return True


def test_sigint_when_idle(demo: Path) -> None:
    with serving("-m", demo) as server:
        assert server.stop(signal.SIGINT) == 130


def test_an_answer_that_takes_too_long_is_ended(endless: Path) -> None:
    with serving("-m", endless, "-c", "100000", "--timeout", "1s") as server:
        answer = WEB.post(f"{server.url}{CHAT}", json={"messages": HELLO})
        assert answer.status_code == 503 and "more than 1 seconds" in answer.text
        streamed = WEB.post(f"{server.url}{CHAT}", json={"messages": HELLO, "stream": True})
        assert streamed.status_code == 200 and '"code": "ended"' in streamed.text


# Where it listens


def test_nothing_waits_for_the_other_sides_acknowledgement() -> None:
    with listen_on_port("127.0.0.1", 0) as listening:
        assert listening.proto == socket.IPPROTO_TCP  # else asyncio leaves Nagle's algorithm on


def test_two_servers(demo: Path) -> None:
    with serving("-m", demo) as server:
        again = ["--port", str(server.port)]
        with serving("-m", demo, *again, wait=False) as other:
            assert other.child.wait(PATIENCE) == 1
            wait_until(lambda: bool(other.log))
        assert "taken" in other.log[-1] and "--port" in other.log[-1]


@needs_unix_sockets
def test_two_servers_of_one_socket(demo: Path) -> None:
    with serving("-m", demo) as server:
        with serving("-m", demo, "--socket", server.socket, wait=False) as other:
            assert other.child.wait(PATIENCE) == 1
        assert "another server has the socket" in other.log[-1]
        assert server.socket.exists()


@needs_unix_sockets
def test_what_a_dead_server_left_is_replaced(demo: Path, tmp_path: Path) -> None:
    path = tmp_path / "own.sock"
    with serving("-m", demo, "--socket", path) as server:
        server.child.kill()
        server.child.wait(PATIENCE)
        assert path.exists()
    with serving("-m", demo, "--socket", path):
        transport = httpx2.HTTPTransport(uds=str(path))
        with httpx2.Client(transport=transport) as client:
            assert client.get("http://x/health").status_code == 200
    (file := tmp_path / "file").write_text("mine")
    with serving("-m", demo, "--socket", file, wait=False) as server:
        assert server.child.wait(PATIENCE) == 2
    assert file.read_text() == "mine"


# Models of the store


def test_models_are_loaded_when_they_are_asked_for(demo: Path, endless: Path, store: Path) -> None:
    store.mkdir()
    with serving("--keep-alive", "1s", "-c", "1024", home=store) as server:
        assert any("of which there is none yet" in line for line in server.log)
        (store / "small-Q8_0.gguf").symlink_to(demo)
        (store / "other.gguf").symlink_to(endless)
        client = server.client()
        assert {model.id for model in client.models.list()} == {"small-Q8_0", "other"}
        asked: Any = {"messages": HELLO, "max_tokens": 3}
        assert client.chat.completions.create(model="SMALL", **asked).model == "small-Q8_0"
        assert client.chat.completions.create(model="other", **asked).model == "other"
        wait_until(lambda: not any(_loaded(server).values()))
        (store / "other.gguf").unlink()
        answer = WEB.post(f"{server.url}{CHAT}", json={"model": "other", "messages": HELLO})
        assert answer.status_code == 404
        (store / "other.gguf").write_bytes(b"GGUF\x03\0\0\0 nonsense")
        answer = WEB.post(f"{server.url}{CHAT}", json={"model": "other", "messages": HELLO})
        assert answer.status_code == 400
        assert client.chat.completions.create(model="small", **asked).choices


def _loaded(server: Serving) -> dict[str, bool]:
    listed = WEB.get(f"{server.url}/v1/models").json()["data"]
    return {model["id"]: model["loaded"] for model in listed}


def test_a_model_file_that_vanishes_is_still_answered_with(demo: Path, tmp_path: Path) -> None:
    path = tmp_path / "gone.gguf"
    path.write_bytes(demo.read_bytes())
    with serving("-m", path) as server:
        path.unlink()
        answer = server.client().chat.completions.create(model="gone", messages=HELLO)
        assert answer.choices[0].message.content


@needs_unix_sockets
def test_one_that_vanishes_as_a_program_asks_is_not_loaded(demo: Path, tmp_path: Path) -> None:
    """The program then says what it says without a server."""
    path = tmp_path / "gone.gguf"
    path.write_bytes(demo.read_bytes())
    with serving("-m", path) as server:
        body = {"file": str(path.resolve()), "identity": identity(path), "probe": True}
        transport = httpx2.HTTPTransport(uds=str(server.socket))
        with httpx2.Client(transport=transport) as client:
            assert client.post("http://x/own/answer", json=body).json()["model"]
            path.unlink()
            assert client.post("http://x/own/answer", json=body).status_code == 404


def test_a_model_file_that_another_replaced_is_loaded(demo: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(demo.read_bytes())
    with serving("-m", path) as server:
        body = {"content": "What is a pipe?"}
        before = WEB.post(f"{server.url}/tokenize", json=body).json()["tokens"]
        write_model(tmp_path / "other.gguf").replace(path)
        after = WEB.post(f"{server.url}/tokenize", json=body).json()["tokens"]
        assert after != before


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    for name, code in (("nothing-like-it", 4), (str(tmp_path / "no.gguf"), 4)):
        with serving("-m", name, wait=False) as server:
            assert server.child.wait(PATIENCE) == code
    (tmp_path / "bad.gguf").write_bytes(b"GGUF and nothing more")
    with serving("-m", tmp_path / "bad.gguf", wait=False) as server:
        assert server.child.wait(PATIENCE) == 3


# What is kept on the disk

START = "one two three four five six seven eight nine ten " * 10


def _cached(server: Serving, prompt: str) -> int:
    client = server.client()
    answer = client.completions.create(model="demo", prompt=prompt, max_tokens=4, temperature=0)
    return int(answer.usage.prompt_tokens_details.cached_tokens)


def test_what_was_read_is_there_after_a_restart(demo: Path, store: Path) -> None:
    with serving("-m", demo, "--cache", home=store) as server:
        assert _cached(server, f"{START}a") <= 1 and _cached(server, "Another " * 60) <= 1
        assert server.stop() == 143
    assert len(list((store / "cache").glob("*.kv"))) == 2
    with serving("-m", demo, "--cache", home=store) as server:
        assert _cached(server, f"{START}b") > 50 and _cached(server, "Another " * 55) > 50
    for state in (store / "cache").glob("*.kv"):
        state.write_bytes(state.read_bytes()[:-1] + b"x")  # damaged: as if it weren't there
    with serving("-m", demo, "--cache", home=store) as server:
        assert _cached(server, f"{START}b") == 0


def test_a_cache_that_can_not_be_written_costs_a_notice(demo: Path, store: Path) -> None:
    store.mkdir()
    (store / "cache").write_text("a file where the folder would be")
    with serving("-m", demo, "--cache", home=store) as server:
        _cached(server, START)
        assert server.stop() == 143
    assert any("the cache can't be written" in line for line in server.log)


# Read when the server's Python starts: while the file $FULL is there, the disk is.
FULL_DISK = """
import errno, io, os

class File(io.FileIO):
    def write(self, data):
        if os.path.exists(os.environ["FULL"]):
            super().write(bytes(data)[:10])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(data)

def fdopen(number, mode="r", *more, usual=os.fdopen, **named):
    return File(number, mode) if mode == "wb" else usual(number, mode, *more, **named)

os.fdopen = fdopen
"""


def test_a_disk_that_fills_up_in_the_middle_stops_nobody(
    demo: Path, store: Path, tmp_path: Path
) -> None:
    """The model is freed, and what it had read can't be saved; later it can."""
    store.mkdir()
    (store / "demo.gguf").symlink_to(demo)
    (tmp_path / "sitecustomize.py").write_text(FULL_DISK)
    full = tmp_path / "full"
    full.touch()
    disk = {"PYTHONPATH": str(tmp_path), "FULL": str(full)}
    with serving("--keep-alive", "1s", "--cache", home=store, **disk) as server:
        _cached(server, START)
        wait_until(lambda: not any(_loaded(server).values()))
        wait_until(lambda: any("the cache can't be written" in line for line in server.log))
        told = [line for line in server.log if "the cache can't be written" in line]
        assert len(told) == 1 and "No space left" in told[0]
        assert not any((store / "cache").iterdir())  # no half of a file
        assert _cached(server, START) == 0  # it answers, and reads it again
        full.unlink()
        _cached(server, START)  # were it freed before, on a slow machine, it would be read again
        wait_until(lambda: not any(_loaded(server).values()))
        assert _cached(server, f"{START}b") > 50
        assert server.stop() == 143
    assert sum("the cache can't be written" in line for line in server.log) == 1
