"""/v1/files and /v1/batches, as OpenAI's own client sees them."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llamacli.serve import batches
from llamacli.serve.batches import File, Office
from llamacli.serve.faults import Fault
from llamacli.serve.fields import Fields
from tests.standins.server import WEB, Serving, serving
from tests.standins.waiting import wait_until


@pytest.fixture(scope="module")
def server(demo: Path) -> Iterator[Serving]:
    with serving("-m", demo, "--parallel", "2", "--queue", "2") as started:
        yield started


@pytest.fixture
def client(server: Serving) -> Any:
    return server.client()


def upload(client: Any, lines: list[Any]) -> str:
    data = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    return client.files.create(file=("in.jsonl", data.encode()), purpose="batch").id


def chat(number: int, **body: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": f"Tell me about {number}"}]
    asked = {"model": "demo", "messages": messages, "max_tokens": 3, **body}
    return {"custom_id": f"r{number}", "method": "POST", "url": "/v1/chat/completions",
            "body": asked}  # fmt: skip


def finished(client: Any, name: str) -> Any:
    wait_until(lambda: client.batches.retrieve(name).status != "in_progress")
    return client.batches.retrieve(name)


def test_a_batch(client: Any) -> None:
    """More requests than the queue holds, and bad ones among them."""
    lines: list[Any] = [chat(i) for i in range(12)]
    lines += [chat(12, temperature="hot"), chat(13, model="none"), "not JSON"]
    source = upload(client, lines)
    batch = client.batches.create(
        input_file_id=source, endpoint="/v1/chat/completions", completion_window="24h"
    )
    assert batch.request_counts.total == 15
    done = finished(client, batch.id)
    assert done.status == "completed"
    assert (done.request_counts.completed, done.request_counts.failed) == (12, 3)
    answers = [json.loads(x) for x in client.files.content(done.output_file_id).text.splitlines()]
    assert {x["custom_id"] for x in answers} == {f"r{i}" for i in range(12)}
    assert all(x["response"]["body"]["choices"][0]["message"]["content"] for x in answers)
    errors = [json.loads(x) for x in client.files.content(done.error_file_id).text.splitlines()]
    told = {x["custom_id"]: x["response"]["status_code"] for x in errors}
    assert told == {"r12": 422, "r13": 404, None: 400}


def test_files_and_what_is_not_there(client: Any) -> None:
    import openai

    name = upload(client, [chat(1)])
    assert client.files.retrieve(name).bytes > 50 and name in {f.id for f in client.files.list()}
    for endpoint in ("/v1/embeddings", "/v1/messages"):
        with pytest.raises(openai.UnprocessableEntityError, match="endpoint"):
            client.batches.create(input_file_id=name, endpoint=endpoint, completion_window="24h")  # type: ignore[call-overload]
    assert client.files.delete(name).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(name)
    with pytest.raises(openai.NotFoundError):
        client.batches.retrieve("batch-none")
    with pytest.raises(openai.UnprocessableEntityError, match="purpose"):
        client.files.create(file=b"x", purpose="fine-tune")


@pytest.mark.parametrize(
    "metadata",
    [{"a": "x" * 513}, {"x" * 65: "a"}, {str(i): "" for i in range(17)}, {"a": 1}, ["a"]],
)
def test_metadata_without_bound_is_refused(client: Any, metadata: Any) -> None:
    """A thousand batches are told of, each with it."""
    import openai

    source = upload(client, [chat(1)])
    asked: Any = {"input_file_id": source, "endpoint": "/v1/chat/completions"}
    with pytest.raises(openai.UnprocessableEntityError, match="metadata"):
        client.batches.create(**asked, completion_window="24h", metadata=metadata)
    told = client.batches.create(**asked, completion_window="24h", metadata={"a": "b"})
    assert told.metadata == {"a": "b"}


def test_cancelling(client: Any) -> None:
    source = upload(client, [chat(i, max_tokens=200) for i in range(200)])
    batch = client.batches.create(
        input_file_id=source, endpoint="/v1/chat/completions", completion_window="24h"
    )
    assert client.batches.cancel(batch.id).status == "cancelling"
    wait_until(lambda: client.batches.retrieve(batch.id).status == "cancelled")
    assert client.batches.retrieve(batch.id).request_counts.completed < 200


def test_files_are_listed_by_pages(client: Any) -> None:
    names = [upload(client, [chat(i)]) for i in range(3)]
    assert [one.id for one in client.files.list(purpose="batch", limit=2)][:3] == names[::-1]
    assert client.files.list(purpose="batch", limit=2).has_more
    assert [one.id for one in client.files.list(after=names[1], order="asc", limit=1)] == names[2:]
    assert names[0] not in [one.id for one in client.files.list(purpose="batch_output")]


def test_what_fails_unexpectedly_is_an_answer_and_what_runs_is_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A line's fault is its own; a file that is deleted counts until its batch has read it."""

    async def run() -> None:
        go = asyncio.Event()

        async def answer(fields: Fields) -> dict[str, Any]:
            await go.wait()
            raise ZeroDivisionError

        monkeypatch.setattr(batches, "MOST_BYTES", 150)
        monkeypatch.setattr(batches, "MOST_BATCHES", 2)
        office = Office({"/x": answer}, parallel=2)
        source = office._add(File("a", "batch", b'{"body": {}}\n' * 5))["id"]
        fields = {"input_file_id": source, "endpoint": "/x", "completion_window": "24h"}
        first = office.begin(Fields(fields))
        del office.files[source]
        await asyncio.sleep(0)
        source = office._add(File("a", "batch", b'{"body": {}}\n' * 5))["id"]
        fields["input_file_id"] = source
        with pytest.raises(Fault, match="more than 150 bytes"):
            office.begin(Fields(fields))
        monkeypatch.setattr(batches, "MOST_BYTES", 10_000)
        go.set()
        await office.batch(first["id"]).task  # type: ignore[misc]
        await asyncio.sleep(0)
        done = office.batch(first["id"]).object()
        assert done["status"] == "completed" and done["request_counts"]["failed"] == 5
        del office.files[done["error_file_id"]]
        for _ in range(2):
            office.begin(Fields({**fields, "endpoint": "/x"}))
            await asyncio.gather(*(one.task for one in office.batches.values() if one.task))
            office.files = {source: office.files[source]}
        assert first["id"] not in office.batches and len(office.batches) == 2

    asyncio.run(run())


def test_answers_count_among_the_bytes_and_end_a_batch_beyond_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def answer(fields: Fields) -> dict[str, Any]:
        return {"text": "x" * 1000}

    async def run() -> None:
        monkeypatch.setattr(batches, "MOST_BYTES", 4000)
        office = Office({"/x": answer}, parallel=2)
        source = office._add(File("a", "batch", b'{"body": {}}\n' * 9))["id"]
        fields = {"input_file_id": source, "endpoint": "/x", "completion_window": "24h"}
        batch = office.batch(office.begin(Fields(fields))["id"])
        await batch.task  # type: ignore[misc]
        await asyncio.sleep(0)
        told = batch.object()
        assert told["status"] == "failed" and told["request_counts"]["completed"] == 3
        assert "more than 4000 bytes" in told["errors"]["data"][0]["message"]
        assert office.file(told["output_file_id"]).data.count(b"\n") == 3
        assert office._bytes() <= 4000

    asyncio.run(run())


def test_uploads_that_are_broken(server: Serving) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"x"

    url = f"{server.url}/v1/files"
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    assert WEB.post(url, content=chunks(), headers=kind).status_code == 411
    for body in (b"--x\r\nnonsense", b"--x--", b"", b"\xff" * 100):
        answer = WEB.post(url, content=body, headers=kind)
        assert 400 <= answer.status_code < 500 and answer.json()["error"]["message"]
    assert WEB.post(url, content=b"{}").status_code == 422


def test_a_server_stops_in_the_middle_of_a_batch(demo: Path) -> None:
    with serving("-m", demo, "--parallel", "2") as server:
        client = server.client()
        source = upload(client, [chat(i, max_tokens=300, temperature=3) for i in range(300)])
        client.batches.create(
            input_file_id=source, endpoint="/v1/chat/completions", completion_window="24h"
        )
        assert server.stop() == 143
    assert not any("Traceback" in line for line in server.log), server.log[-20:]
