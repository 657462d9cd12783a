"""Several machines: a model's layers on workers, and workers that go, stall or lie."""

import errno
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO, TextIOWrapper
from itertools import count
from pathlib import Path
from signal import SIGINT, SIGTERM
from threading import Thread
from types import SimpleNamespace

import httpx2
import numpy as np
import pytest

import llamacli as llamacli_package
from convert import convert, open_adapter, read_config, write_adapter
from llamacli.cli import main
from llamacli.engine import AdapterChoice, Engine, EngineSettings
from llamacli.engine.fit import Fitting
from llamacli.errors import (
    DoesNotFitError,
    InvalidModelError,
    UnreachableError,
    UsageError,
)
from llamacli.gguf import check_llama, read_gguf
from llamacli.machine import Device, FreeMemory, this_processor
from llamacli.prompt import Text
from llamacli.quality import compare, measure_importance
from llamacli.workers import (
    Address,
    greet,
    greeting,
    link as link_module,
    measure,
    parse_split,
    parse_workers,
)
from llamacli.workers.link import Link
from tests.conftest import Made
from tests.standins import tiny
from tests.standins.adapter import write_adapter as write_lora
from tests.standins.checkpoint import (
    shape_config,
    write_checkpoint,
    write_json,
    write_small_files,
)
from tests.standins.hollow import without_weights, write_hollow
from tests.standins.program import PROGRAM, run_program
from tests.standins.server import HASTY, WEB, serving
from tests.standins.tiny import write_model
from tests.standins.waiting import PATIENCE, wait_until
from tests.standins.workers import Between, Started, free_port, garbling, speaking, stalling, worker
from tests.systems import needs_signals
from tests.terminal import Terminal

PLAIN = EngineSettings(context=512, threads=1, repack=False)
HELLO = bytes([28, *[0] * 7])  # the length of HELLO's answer
COUNT = 12  # tokens of an answer


@pytest.fixture(scope="module")
def lender() -> Iterator[Started]:
    """A worker that no test takes away."""
    with worker() as started:
        yield started


@pytest.fixture(scope="module")
def second() -> Iterator[Started]:
    with worker() as started:
        yield started


@pytest.fixture(scope="module")
def large(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """70B's shape with eight layers, a sixteenth as wide, as Q4_K_M."""
    few = {"hidden_size": 512, "intermediate_size": 1792, "num_hidden_layers": 8}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 1, "vocab_size": 1024}

    def make(path: Path) -> None:
        folder = tmp_path_factory.mktemp("large")
        write_checkpoint(folder, shape_config("70b", **few, **heads))
        convert(folder, path, "Q4_K_M")

    return made("large.gguf", make)


def lent(*addresses: Address, split: str = "", **changes: object) -> EngineSettings:
    parts = parse_split(split) if split else ()
    return replace(PLAIN, workers=addresses, split=parts, **changes)  # type: ignore[arg-type]


def answer(engine: Engine, count: int = COUNT) -> list[int]:
    """The likeliest tokens after a prompt."""
    engine.prefill(engine.vocabulary.tokenize("What is GGUF? It is a file"))
    tokens = []
    for _ in range(count):
        tokens.append(int(engine.logits().argmax()))
        engine.decode(tokens[-1])
    return tokens


def answer_by(path: Path, settings: EngineSettings) -> list[int]:
    with Engine(path, settings) as engine:
        return answer(engine)


@pytest.mark.parametrize("split", ["", "0,1,1", "1,1,1", "6,1,2"])
def test_two_workers_answer_as_one_machine(
    demo: Path, lender: Started, second: Started, split: str
) -> None:
    with Engine(demo, lent(lender.address, second.address, split=split)) as engine:
        assert [gpu.machine for gpu in engine.gpus] == [str(lender.address), str(second.address)]
        assert all(relay.link.sent > 10_000 for relay in engine.workers.relays)
        assert answer(engine) == answer_by(demo, PLAIN)


def test_a_cut_down_70b_answers_as_on_one_machine(
    large: Path, lender: Started, second: Started
) -> None:
    with Engine(large, lent(lender.address, second.address, split="1,1,1")) as engine:
        assert engine.settings.gpu_layers == 6  # of nine, the output among them
        assert answer(engine) == answer_by(large, PLAIN)


def test_an_adapter_lies_on_workers_with_its_matrices(
    tmp_path: Path, lender: Started, second: Started
) -> None:
    config = shape_config("tiny", max_position_embeddings=1024, initializer_range=0.2)
    write_checkpoint(tmp_path / "base", config, dtype="F32")
    base = tmp_path / "base.gguf"
    convert(tmp_path / "base", base, "F32")
    shape = read_config(tmp_path / "base")
    source = write_lora(tmp_path / "lora", config)
    write_adapter(open_adapter(source, shape), shape, tmp_path / "lora.gguf")
    adapters = (AdapterChoice(tmp_path / "lora.gguf"),)
    alone = answer_by(base, replace(PLAIN, adapters=adapters))
    together = lent(lender.address, second.address, split="0,1,1", adapters=adapters)
    assert answer_by(base, together) == alone != answer_by(base, PLAIN)


def test_layers_go_by_the_memory_that_is_free(large: Path) -> None:
    with worker(memory=30 << 20) as small, worker(memory=240 << 20) as big:
        with Engine(large, lent(small.address, big.address, split="0,1,1")) as engine:
            assert engine.settings.gpu_layers == 9
            halves = [relay.link.sent for relay in engine.workers.relays]
        with Engine(large, lent(small.address, big.address, gpu_layers=9)) as engine:
            shares = [relay.link.sent for relay in engine.workers.relays]
        assert shares[0] < halves[0]
        assert shares[1] > halves[1]
        with pytest.raises(DoesNotFitError, match=f"on {small.address} .* is free there"):
            Engine(large, lent(small.address, split="0,1"))


def test_where_a_whole_70b_goes(tmp_path: Path) -> None:
    """By its header alone: every byte of its weights is here or on the worker, half of it each."""
    config, room = shape_config("70b"), 24 << 30
    write_json(tmp_path / "config.json", config)
    write_small_files(tmp_path, config)
    file = read_gguf(write_hollow(without_weights(tmp_path), tmp_path / "70b.gguf"))
    shape, laptop = check_llama(file), Address("laptop", 50052)
    lending = Device("laptop", "", "rpc", "gpu", room, room, machine=str(laptop))
    fitting = Fitting(file, shape, this_processor(), [lending], FreeMemory(room))
    asked = EngineSettings(context=8192, repack=False, workers=(laptop,))
    settings = fitting.fit(asked)
    assert settings.gpu_layers == 41  # of 81, the output among them
    need = fitting.need(settings)
    (there,) = need.gpus
    weights = sum(tensor.nbytes for tensor in file.tensors)
    assert need.host.weights + there.weights == weights > 42_500_000_000
    assert 0.49 < there.weights / weights < 0.51
    assert need.host.kv + there.kv == 80 * 2 * 8 * 128 * 2 * 8192
    assert not fitting.fits(fitting.fit(replace(asked, split=(3.0, 1.0), overcommit=True)))
    with pytest.raises(DoesNotFitError, match=r"free there"):
        fitting.fit(replace(asked, split=(1.0, 3.0)))


@pytest.fixture(scope="module")
def sizes(demo: Path, lender: Started) -> list[int]:
    """How many bytes have gone to the worker once the demo is loaded, has read, has answered."""
    between = Between(lender.address)
    passed = []
    with Engine(demo, lent(between.address, split="0,1")) as engine:
        passed.append(between.passed)
        answer(engine, 0)
        passed.append(between.passed)
        answer(engine)
        passed.append(between.passed)
    between.close()
    return passed


MOMENTS = [(phase, part / 8) for phase in range(3) for part in range(1, 8)]


@pytest.mark.parametrize(("phase", "part"), MOMENTS)
def test_a_worker_is_killed(demo: Path, sizes: list[int], phase: int, part: float) -> None:
    """While it is sent weights, reads the prompt, decodes: an error, and the process goes on."""
    begun = [0, *sizes][phase]
    with worker() as victim:
        between = Between(
            victim.address, begun + part * (sizes[phase] - begun) + 1, reached=victim.kill
        )
        with pytest.raises(UnreachableError, match=f"worker {between.address} is lost"):
            answer_by(demo, lent(between.address, split="0,1"))
        between.close()


def test_one_of_two_workers_is_killed_and_the_other_serves_on(demo: Path, lender: Started) -> None:
    with worker() as victim, Engine(demo, lent(lender.address, victim.address)) as engine:
        answer(engine, 3)
        victim.kill()
        with pytest.raises(UnreachableError, match=str(victim.address)):
            answer(engine)
        assert engine.lost
    assert answer_by(demo, lent(lender.address)) == answer_by(demo, PLAIN)


def test_a_worker_stalls(demo: Path, lender: Started, sizes: list[int]) -> None:
    between = stalling(lender.address, sizes[1] + 1000, [])
    with pytest.raises(UnreachableError, match="has not answered for 2 seconds"):
        answer_by(demo, lent(between.address, split="0,1", worker_timeout=2.0))
    between.close()


def test_logits_that_are_no_numbers_reach_no_sampler(demo: Path, lender: Started) -> None:
    between = Between(
        lender.address,
        change=lambda data: data if len(data) < 4096 else data[:-1024] + b"\xff" * 1024,
    )
    with pytest.raises(InvalidModelError, match="no numbers"):
        answer_by(demo, lent(between.address, split="0,1"))
    between.close()


@pytest.mark.parametrize("seed", range(20))
def test_a_worker_answers_garbage(demo: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Either it is found out, or it is only numbers that are wrong; llama.cpp gets through.

    What llama.cpp makes of it may end the worker, which is one for each test therefore.
    """
    monkeypatch.setattr(greeting.greet, "__defaults__", (2.0,))
    with worker() as liar:
        between = Between(liar.address, change=garbling(seed, (0.003, 0.01, 0.05, 0.3)[seed % 4]))
        try:
            tokens = answer_by(demo, lent(between.address, split="0,1", worker_timeout=2.0))
            assert len(tokens) == COUNT
        except (InvalidModelError, DoesNotFitError) as error:  # so says a full worker, too
            assert re.search("no numbers|can't be made|could not load", str(error))
        except UnreachableError as error:
            assert str(between.address) in str(error)
        between.close()


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "is no worker: it speaks HTTP"),
        (b"SSH-2.0-OpenSSH_9.9\r\n", "is no worker: it says what no worker would"),
        (HELLO + bytes([6, 1, 0, *[0] * 25]), "speaks RPC 6.1.0, this llama.cpp 7.0.0"),
        (HELLO + bytes([7, 0, 1, *[0] * 25]), "speaks RPC 7.0.1, this llama.cpp 7.0.0"),
        (b"", "doesn't answer; it may be serving another"),
        (HELLO, "doesn't answer"),
    ],
)
def test_a_port_that_is_no_worker(
    demo: Path, said: bytes, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(greeting.greet, "__defaults__", (0.5 if "answer" in told else PATIENCE,))
    monkeypatch.setattr(greeting, "HTTP_PATIENCE", 0.5)
    with speaking(said) as address, pytest.raises(UnreachableError) as caught:
        Engine(demo, lent(address))
    assert told in str(caught.value)


def test_a_port_of_a_web_server(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which says nothing to a worker's greeting, as it has no line's end."""
    monkeypatch.setattr(greeting.greet, "__defaults__", (0.5,))
    monkeypatch.setattr(greeting, "HTTP_PATIENCE", PATIENCE)
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    server.daemon_threads = True
    Thread(target=server.serve_forever, daemon=True).start()
    address = Address("127.0.0.1", server.server_address[1])
    with pytest.raises(UnreachableError, match=f"{address} is no worker: it speaks HTTP"):
        Engine(demo, lent(address))
    server.shutdown()
    server.server_close()


def test_nobody_is_there(demo: Path) -> None:
    address = Address("127.0.0.1", free_port())
    with pytest.raises(UnreachableError, match=f"{address} can't be reached: Connection refused"):
        Engine(demo, lent(address))


def test_a_busy_worker_says_nothing(
    demo: Path, lender: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(greeting, "HTTP_PATIENCE", 0.5)
    with Engine(demo, lent(lender.address)), pytest.raises(UnreachableError, match="another"):
        greet(lender.address, 0.5)


def test_a_connection_that_takes_no_options_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As macOS has it of one that the other side has closed."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(socket.socket, "setsockopt", refuse)
        with pytest.raises(UnreachableError, match="Invalid argument") as raised:
            greet(Address(*server.getsockname()))
        came, _ = server.accept()
        with came:
            came.settimeout(5.0)
            assert came.recv(1) == b"" and raised.tb is not None  # which holds what it saw


def test_a_link_is_measured(lender: Started) -> None:
    link = greet(lender.address)
    latency, bandwidth = measure(link)
    link.close()
    assert latency > 0
    assert bandwidth > 0


def test_a_slow_link_is_no_lost_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of its pieces has the time that there is, not all of them together."""

    class Slow:
        sent = 0
        late = False

        def send(self, view: memoryview) -> int:
            self.late = not self.late
            if self.late:
                raise TimeoutError
            taken = min(len(view), 1000)
            self.sent += taken
            return taken

    clock = count(step=4)
    monkeypatch.setattr(link_module, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    sock = Slow()
    Link(Address("a", 1), sock, 10.0).send(bytes(9999))  # type: ignore[arg-type]
    assert sock.sent == 9999


def test_a_worker_that_has_the_weights_is_sent_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """llama.cpp keeps tensors of more than 10 MiB; a file that was cut short isn't believed."""
    monkeypatch.setattr(tiny, "INNER", 43_008)
    path = write_model(tmp_path / "wide.gguf")
    whole, cache = path.stat().st_size, tmp_path / "cache"
    cache.mkdir()
    tokens = answer_by(path, PLAIN)

    def sent() -> int:
        with worker(cache=cache) as fresh, Engine(path, lent(fresh.address, split="0,1")) as engine:
            loading = engine.workers.relays[0].link.sent
            assert answer(engine) == tokens
        return loading

    assert sent() > 0.9 * whole
    assert sent() < 0.02 * whole
    longest = max(cache.iterdir(), key=lambda file: file.stat().st_size)
    size = longest.stat().st_size
    with longest.open("r+b") as file:
        file.truncate(size - 4096)
    assert size < sent() < size + 0.02 * whole
    assert longest.stat().st_size == size


def test_a_worker_that_has_a_small_models_weights_is_sent_none(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None of its tensors has 10 MiB."""
    monkeypatch.setattr(greeting, "WORTH", 0)
    loading, tokens = [], []
    for _ in range(2):
        with (
            worker(cache=tmp_path) as fresh,
            Engine(demo, lent(fresh.address, split="0,1")) as engine,
        ):
            loading.append(engine.workers.relays[0].link.sent)
            tokens.append(answer(engine))
    assert loading[0] > 2_000_000
    assert loading[1] < 0.1 * loading[0]
    assert tokens[0] == tokens[1] == answer_by(demo, PLAIN)


def test_small_tensors_are_asked_for_by_llama_cpps_hash() -> None:
    data = bytes(range(256)) * 5 + b"end"
    value = greeting.START
    for byte in data:
        value = (value ^ byte) * greeting.PRIME % (1 << 64)
    assert greeting._compiled()(memoryview(bytearray(data))) == value


def test_a_worker_without_a_cache_is_asked_for_nothing(
    demo: Path, lender: Started, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = read_gguf(demo)
    with worker(cache=tmp_path) as keeping:
        for address, worth, asked in (
            (lender.address, 0, False),
            (keeping.address, 0, True),
            (keeping.address, greeting.WORTH, False),
        ):
            monkeypatch.setattr(greeting, "WORTH", worth)
            link = greet(address)
            assert (greeting.hash_for(link, file) is not None) == asked
            link.close()


def test_two_models_share_a_worker(demo: Path, lender: Started, second: Started) -> None:
    """As the two do whose predictions are compared: a worker serves one client at a time."""
    together = lent(lender.address, second.address, split="0,1,1")
    with Engine(demo, together) as first:
        tokens = answer(first)
        with Engine(demo, together, shared=first.workers) as other:
            free = [gpu.free for gpu in other.gpus]
            assert all(now > 0 for now in free)
            assert answer(other) == tokens
            other.keep(0)
            first.keep(0)
            for token in tokens:  # in turn
                first.decode(token)
                other.decode(token)
                assert first.logit(token) == other.logit(token)
        assert answer(first) == tokens == answer_by(demo, PLAIN)


TEXT = "The file begins with a header, and then come tensors. " * 12


def test_a_text_is_compared_on_workers(demo: Path, lender: Started, second: Started) -> None:
    together = lent(lender.address, second.address, split="0,1,1")
    machine = {"workers": together.workers, "split": together.split}
    here = list(compare([demo], demo, TEXT, threads=1))
    there = list(compare([demo], demo, TEXT, threads=1, **machine))
    assert there[0].prediction.divergence == 0
    assert there[0].prediction.perplexity == pytest.approx(here[0].prediction.perplexity, rel=1e-4)


def test_a_matrix_is_measured_on_workers(demo: Path, lender: Started, second: Started) -> None:
    together = lent(lender.address, second.address, split="0,1,1")
    machine = {"workers": together.workers, "split": together.split}
    text = [Text("text", TEXT * 3)]
    here = measure_importance(demo, text, chunks=1, threads=1)
    there = measure_importance(demo, text, chunks=1, threads=1, **machine)
    assert here.entries.keys() == there.entries.keys()
    for name, entry in here.entries.items():
        np.testing.assert_allclose(there.entries[name].sums, entry.sums, rtol=1e-3, atol=1e-5)


def test_a_matrix_is_not_measured_on_a_lost_worker(demo: Path) -> None:
    with worker() as victim:
        between = Between(victim.address)
        begun = time.monotonic()

        def progress(done: int, _: int) -> None:
            if done == 1:
                victim.kill()

        with pytest.raises(UnreachableError, match="is lost"):
            measure_importance(
                demo, [Text("text", TEXT * 9)], chunks=3, threads=1, progress=progress,
                workers=(between.address,), split=(0.0, 1.0),
            )  # fmt: skip
        assert time.monotonic() - begun < PATIENCE
        between.close()


TAKING = ("run", "chat", "batch", "bench", "tune", "serve", "verify", "quality", "imatrix")


@pytest.mark.parametrize("command", TAKING)
def test_commands_take_workers_from_everywhere(
    command: str, demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """From options, the environment and models.toml: each names a port where nobody is."""
    text = tmp_path / "text"
    text.write_text(TEXT * 4)
    questions = tmp_path / "questions"
    questions.write_text("Hello\n")
    arguments = {
        "run": ["-m", demo, "hi"],
        "chat": ["-m", demo],
        "batch": ["-m", demo, questions],
        "bench": [demo],
        "tune": [demo],
        "serve": ["-m", demo, "--port", "0"],
        "verify": [demo, "--against", Path(llamacli_package.__file__).parent / "demo"],
        "quality": [demo, "--against", demo],
        "imatrix": [demo, "-o", tmp_path / "matrix"],
    }[command]
    if command in ("verify", "quality", "imatrix"):
        arguments += ["--text", text]

    def told(*options: str) -> str:
        monkeypatch.setattr("sys.stdin", TextIOWrapper(BytesIO(b"hi")))
        with pytest.raises(SystemExit) as caught:
            main([command, *map(str, arguments), *options])
        assert caught.value.code in (2, 4)
        return capsys.readouterr().err

    port = free_port()
    options = ("--workers", f"127.0.0.1:{port}", "--split", "1,1", "--worker-timeout", "7")
    assert f"127.0.0.1:{port} can't be reached" in told(*options)
    config = tmp_path / "config"
    config.mkdir()
    lines = f'workers = "127.0.0.1:{port}"\nsplit = "1,1,1"\nworker_timeout = 7\n'
    (config / "models.toml").write_text(f"[defaults]\n{lines}")
    assert "--split has 3 parts" in told()
    monkeypatch.setenv("LLAMACLI_SPLIT", "1,1")
    assert f"127.0.0.1:{port} can't be reached" in told()
    monkeypatch.setenv("LLAMACLI_WORKER_TIMEOUT", "-1")
    assert "more than 0 seconds" in told()


def test_addresses_and_parts() -> None:
    workers = parse_workers("a.example:1, 10.0.0.2,[fe80::1]:7")
    assert workers == (("a.example", 1), ("10.0.0.2", 50052), ("fe80::1", 7))
    assert parse_split("3,1") == (3.0, 1.0)
    for wrong in ("a b", "a:0", "a:70000", "http://a:1", "a:1,a:1"):
        with pytest.raises(UsageError):
            parse_workers(wrong)
    for wrong in ("", "a", "0,0", "-1,2", "nan,1"):
        with pytest.raises(UsageError):
            parse_split(wrong)
    with pytest.raises(UsageError, match="give 2"):
        lent(Address("a", 1), split="1,1,1")


def llamacli(*arguments: object, **settings: object) -> "subprocess.CompletedProcess[str]":
    return run_program(
        [*PROGRAM, *map(str, arguments)],
        text=True,
        env={**os.environ, **{name: str(value) for name, value in settings.items()}},
    )


ASK = ("run", "--temp", "0", "--threads", "1", "-n", "40", "What is GGUF?")


def test_run_gives_what_was_answered_until_a_worker_was_lost(demo: Path) -> None:
    whole = llamacli(*ASK, "-m", demo, "--split", "0,1", "--workers", "127.0.0.1:1")
    assert whole.returncode == 4
    assert whole.stdout == ""
    with worker() as victim:
        between = Between(victim.address)
        address = between.address
        whole = llamacli(*ASK, "-m", demo, "--split", "0,1", LLAMACLI_WORKERS=address)
        assert whole.returncode == 0, whole.stderr
        passed, between.passed = between.passed, 0
        between.most, between.reached = 0.97 * passed, victim.kill
        cut = llamacli(*ASK, "-m", demo, "--split", "0,1", LLAMACLI_WORKERS=address)
        between.close()
    assert cut.returncode == 4
    assert cut.stdout.strip()
    assert whole.stdout.startswith(cut.stdout.rstrip("\n"))
    (line,) = cut.stderr.splitlines()
    assert f"the worker {address} is lost: it closed the connection" in line


def test_devices_tells_of_workers(lender: Started, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.mkdir()
    (config / "models.toml").write_text(f'[defaults]\nworkers = "{lender.address}"\n')
    told = json.loads(llamacli("devices", "--json").stdout)
    (worker,) = told["workers"]
    assert worker["address"] == str(lender.address)
    assert worker["devices"][0]["memory_free"] > 0
    assert worker["latency_seconds"] > 0
    assert worker["bytes_per_second"] > 0
    assert "ms away" in llamacli("devices").stdout


def test_a_chat_outlives_its_worker(demo: Path) -> None:
    """It is lost over an answer; the chat goes on without, and with it when it is back."""
    options = ["--temp", "0", "--threads", "1", "--split", "0,1", "-m", str(demo), "--workers"]
    with worker() as victim:
        between = Between(victim.address)
        chat = Terminal([*PROGRAM, "chat", *options, str(between.address)])
        try:
            chat.prompt()
            chat.ask("What is GGUF?", "file format")
            between.most, between.reached = between.passed + 60_000, victim.kill
            chat.ask("Hello", "is lost")
            chat.ask("/regenerate", "is no worker")
            with worker(victim.address.port):
                chat.ask("/regenerate", "What would you like")
                assert "the worker is back" in chat.text
                chat.line("/exit")
                assert chat.leave() == 0
        finally:
            chat.close()
            between.close()


@needs_signals
@pytest.mark.parametrize(("numbers", "code"), [([SIGTERM], 143), ([SIGINT, SIGINT], 130)])
def test_a_signal_does_not_wait_for_a_worker(
    demo: Path, lender: Started, sizes: list[int], numbers: list[int], code: int
) -> None:
    stalled: list[bool] = []
    between = stalling(lender.address, sizes[0] + 1000, stalled)
    options = ("--split", "0,1", "--workers", str(between.address), "--worker-timeout", "1e6")
    child = subprocess.Popen([*PROGRAM, *ASK, "-m", str(demo), *options], stdin=subprocess.DEVNULL)
    wait_until(lambda: bool(stalled), child)
    for number in numbers:
        time.sleep(1.0)
        child.send_signal(number)
    assert wait_for_end(child, numbers[-1]) in (code, 4)
    between.close()


def wait_for_end(child: "subprocess.Popen[bytes]", number: int) -> int:
    """Its exit code. Two signals at once are one: where a second may have been that, once more."""
    for _ in range(20):
        with suppress(subprocess.TimeoutExpired):
            return child.wait(PATIENCE / 20)
        child.send_signal(number)
    return child.wait(0)


def test_a_server_answers_again_when_its_worker_is_back(demo: Path) -> None:
    body = {"messages": [{"role": "user", "content": "What is GGUF?"}], "temperature": 0}
    with worker() as victim:
        options = ("-m", demo, "--split", "0,1", "--workers", str(victim.address))
        with serving(*options) as server:

            def ask() -> httpx2.Response:
                url = f"{server.url}/v1/chat/completions"
                return WEB.post(url, json=body, timeout=PATIENCE)

            before = ask()
            assert before.status_code == 200
            victim.kill()
            for _ in range(2):
                lost = ask()
                assert lost.status_code == 503
                assert "worker" in lost.json()["error"]["message"]
                assert lost.headers["retry-after"]
            with worker(victim.address.port):
                after = ask()
                assert after.status_code == 200
                texts = [one.json()["choices"][0]["message"]["content"] for one in (before, after)]
                assert texts[0] == texts[1]


@needs_signals
def test_a_server_ends_though_its_worker_stalls(demo: Path, lender: Started) -> None:
    """After the time that answers get to end in, the worker is waited for no longer."""
    stalled: list[bool] = []
    between = stalling(lender.address, sys.maxsize, stalled)
    options = ("--split", "0,1", "--workers", str(between.address), "--worker-timeout", "1e6")
    body = {"messages": [{"role": "user", "content": "What is GGUF?"}], "temperature": 0}
    with serving("-m", demo, *options, program=HASTY) as server:
        between.most = between.passed + 1000
        url = f"{server.url}/v1/chat/completions"
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(WEB.post, url, json=body, timeout=PATIENCE)
            wait_until(lambda: bool(stalled), server.child)
            server.child.send_signal(SIGTERM)
            assert server.child.wait(PATIENCE) == 128 + SIGTERM
            assert asked.exception() or asked.result().status_code == 503
    between.close()
