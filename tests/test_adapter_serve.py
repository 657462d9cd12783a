"""Adapters in batch and serve: chosen for each request, and never mixed with others'."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest

from convert import convert, open_adapter, read_config, write_adapter
from llamacli.answer import generate
from llamacli.batch import BatchEngine, Job, Scheduler, prepare
from llamacli.batch.job import Running
from llamacli.engine import AdapterChoice, Engine, EngineSettings, SamplingSettings
from llamacli.gguf import file_identity
from llamacli.serve import ask_server
from tests.standins import adapter as standin
from tests.standins.checkpoint import write_checkpoint
from tests.standins.server import WEB, Serving, serving
from tests.systems import needs_unix_sockets
from tests.test_adapter_run import CONFIG
from tests.test_cli import llamacli, one_line

SETTINGS = EngineSettings(context=256, threads=1, device="cpu")
GREEDY = SamplingSettings(temperature=0)
PROMPT = "Several words to begin with, so that there is a start to be shared."
TOKENS = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("adapters")
    write_checkpoint(place / "base", CONFIG, dtype="F32")
    convert(place / "base", place / "base.gguf", "F32")
    shape = read_config(place / "base")
    for seed, name in enumerate(("one", "two")):
        source = standin.write_adapter(place / name, CONFIG, seed=seed)
        write_adapter(open_adapter(source, shape), shape, place / f"{name}.gguf")
    return place


def settings(folder: Path) -> EngineSettings:
    choices = (AdapterChoice(folder / "one.gguf"), AdapterChoice(folder / "two.gguf", 0.0))
    return replace(SETTINGS, adapters=choices)


def finish(scheduler: Scheduler, running: list[Running]) -> None:
    while any(one in scheduler.running for one in running):
        scheduler.step()


EVERY = [(1.0, 0.0), (0.0, 1.0), (0.5, 0.5), (0.0, 0.0), (1.0, 0.0)]


def test_jobs_with_different_adapters_share_no_batch_and_no_cache(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[set[tuple[float, ...]]] = []
    at_work: list[Running] = []
    with BatchEngine(folder / "base.gguf", settings(folder), 6) as engine:
        fill = engine.fill

        def watched(parts: Any) -> Any:
            scales_of = {one.sequence: one.scales for one in at_work}
            batches.append({scales_of[part.sequence] for part in parts} | {engine.scales})
            return fill(parts)

        monkeypatch.setattr(engine, "fill", watched)
        prompt = engine.vocabulary.tokenize(PROMPT, special=False, bos=True)

        def answers(scales: list[tuple[float, ...] | None]) -> tuple[list[list[int]], list[int]]:
            scheduler = Scheduler(engine)
            jobs = [Job(prompt, GREEDY, 12, scales=one) for one in scales]
            running = [prepare(engine, i, job) for i, job in enumerate(jobs)]
            for one in running:
                scheduler.start(one)
            at_work[:] = running
            finish(scheduler, running)
            again = [prepare(engine, 9, replace(jobs[0], scales=s)) for s in (scales[0], (0.25, 0))]
            for one in again:
                scheduler.start(one)
            at_work[:] = again
            finish(scheduler, again)
            engine.library.llama_memory_clear(engine.memory, False)
            return [one.answer.tokens for one in running], [one.cached for one in again]

        together, cached = answers([*EVERY])
        alone = [answers([one])[0][0] for one in EVERY]
        default = answers([None])[0][0]
    assert together == alone
    assert len({tuple(tokens) for tokens in together}) == 4 and default == together[0]
    assert all(len(scales) == 1 for scales in batches)
    assert cached[0] == len(prompt) - 1 and cached[1] == 0


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Serving]:
    adapters = ["--adapter", folder / "one.gguf", "--adapter", f"{folder / 'two.gguf'}:0"]
    with serving("-m", folder / "base.gguf", *adapters, "-c", "256") as started:
        yield started


def alone(folder: Path, *adapters: AdapterChoice) -> str:
    """The greedy answer by an engine of its own."""
    with Engine(folder / "base.gguf", replace(SETTINGS, adapters=adapters)) as engine:
        prompt = engine.vocabulary.tokenize(PROMPT, special=False, bos=True)
        chunks = list(generate(engine, prompt, GREEDY, max_tokens=TOKENS))
    assert chunks[-1].result is not None
    return chunks[-1].result.text


def asked(server: Serving, path: str = "/v1/completions", **fields: Any) -> httpx2.Response:
    body = {"prompt": PROMPT, "temperature": 0, "max_tokens": TOKENS, **fields}
    return WEB.post(f"{server.url}{path}", json=body)


def test_each_request_has_its_own(server: Serving, folder: Path) -> None:
    one, two = (AdapterChoice(folder / f"{name}.gguf") for name in ("one", "two"))
    wanted: list[tuple[dict[str, Any], tuple[AdapterChoice, ...]]] = [
        ({}, (one,)),
        ({"lora": []}, ()),
        ({"lora": [{"id": 1}]}, (two,)),
        ({"lora": [{"id": 0, "scale": 0.5}, {"id": 1, "scale": 2}]},
         (replace(one, scale=0.5), replace(two, scale=2.0))),
    ]  # fmt: skip
    expected = [alone(folder, *adapters) for _, adapters in wanted]
    assert len(set(expected)) == len(expected)
    with ThreadPoolExecutor(8) as pool:
        replies = [pool.submit(asked, server, **fields) for fields, _ in wanted * 2]
    texts = [reply.result().json()["choices"][0]["text"] for reply in replies]
    assert texts == expected * 2


def test_the_adapters_are_listed(server: Serving) -> None:
    listed = WEB.get(f"{server.url}/lora-adapters").json()
    assert listed == [
        {"id": 0, "path": "one.gguf", "scale": 1.0},
        {"id": 1, "path": "two.gguf", "scale": 0.0},
    ]


@pytest.mark.parametrize(
    ("lora", "param", "fault"),
    [
        ({}, "lora", "a list"),
        ([1], "lora.0", "an object"),
        ([{"id": 7}], "lora", "has the id 7; the model has 2 adapters"),
        ([{"id": -1}], "lora.0.id", "is 0 to 15"),
        ([{}], "lora.0.id", "is missing"),
        ([{"id": 0}, {"id": 0}], "lora.1.id", "is there already"),
        ([{"id": 0, "scale": 1e9}], "lora.0.scale", "is -10000 to 10000"),
        ([{"id": 0, "path": "/etc/passwd"}], "lora.0.path", "is not known"),
    ],
)
def test_bad_fields_are_named(lora: Any, param: str, fault: str, server: Serving) -> None:
    for path, fields in (
        ("/v1/completions", {}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}),
    ):
        body = {"temperature": 0, "max_tokens": 1, "lora": lora, **(fields or {"prompt": "x"})}
        reply = WEB.post(f"{server.url}{path}", json=body)
        assert reply.status_code == 422 and fault in reply.json()["error"]["message"], reply.text
        assert reply.json()["error"]["param"] == param


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}),
        ("/v1/responses", {"input": "x"}),
        ("/v1/messages", {"messages": [{"role": "user", "content": "x"}], "max_tokens": 2}),
    ],
)
def test_every_api_takes_the_field(path: str, fields: dict[str, Any], server: Serving) -> None:
    told = [
        WEB.post(f"{server.url}{path}", json={**fields, "temperature": 0, "lora": lora}).json()
        for lora in ([], [{"id": 1, "scale": 3.0}])
    ]
    texts = [
        json.dumps(one.get("choices") or one.get("output") or one.get("content")) for one in told
    ]
    assert texts[0] != texts[1]


@needs_unix_sockets
def test_the_users_programs_get_what_they_asked_for(
    server: Serving, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without --adapter that is the base, whatever the server has in use; one that it hasn't
    loaded is loaded here."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(server.runtime))
    model = folder / "base.gguf"
    answer = ("run", "--raw", PROMPT, "-m", model, "--temp", "0", "-n", str(TOKENS), "-v")
    two = folder / "two.gguf"
    by_server = "a server that has the model loaded answers"
    for given, choices in (
        ([], ()),
        (["--adapter", folder / "one.gguf"], (AdapterChoice(folder / "one.gguf"),)),
        (["--adapter", f"{two}:0.5"], (AdapterChoice(two, 0.5),)),
    ):
        done = llamacli(*answer, *given)
        assert by_server in done.stderr
        assert done.stdout.rstrip("\n") == alone(folder, *choices).rstrip("\n")
    copy = folder / "copy.gguf"
    copy.write_bytes(two.read_bytes())
    done = llamacli(*answer, "--adapter", copy, "-c", "256")
    assert by_server not in done.stderr
    request = {"prompt": PROMPT, "temperature": 0, "max_tokens": TOKENS}
    unknown = {"adapters": [{"identity": file_identity(copy), "scale": 1.0}]}
    assert ask_server(model, {**request, **unknown}) is None


def test_a_server_has_adapters_for_one_model(folder: Path) -> None:
    said = one_line(llamacli("serve", "--adapter", folder / "one.gguf", check=2))
    assert "--adapter goes with one -m" in said
