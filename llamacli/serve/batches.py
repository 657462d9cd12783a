"""/v1/files and /v1/batches: a file of requests, answered beside others'. Kept in memory alone."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from llamacli.serve.faults import Fault, as_fault, invalid
from llamacli.serve.fields import Fields, read_json
from llamacli.serve.guard import BODY_SECONDS, json_response, read_body
from llamacli.serve.openai import new_id

MOST_BYTES = 256 << 20  # of all files together, and of what batches ask and have answered
MOST_LINES = 50_000  # OpenAI's own
MOST_FILES = 10_000
MOST_BATCHES = 1000  # that are told of; beyond, the oldest one is forgotten
PAUSE = 0.2  # seconds before a full queue is asked again

Answer = Callable[[Fields], Awaitable[dict[str, Any]]]


@dataclass
class File:
    """Bytes with a name, in memory until they are deleted or the server stops."""

    name: str
    purpose: str
    data: bytes
    id: str = field(default_factory=lambda: new_id("file"))
    made: int = field(default_factory=lambda: int(time.time()))

    def object(self) -> dict[str, Any]:
        return {
            "id": self.id, "object": "file", "bytes": len(self.data), "created_at": self.made,
            "filename": self.name, "purpose": self.purpose, "status": "processed",
        }  # fmt: skip


@dataclass
class Batch:
    """A batch's progress; told are the times and texts that its object has."""

    endpoint: str
    source: str  # the file's id
    metadata: dict[str, str] | None
    lines: list[bytes]  # those that nobody has begun
    total: int
    nbytes: int  # of lines without an answer, and of answers that are in no file yet
    id: str = field(default_factory=lambda: new_id("batch"))
    made: int = field(default_factory=lambda: int(time.time()))
    status: str = "in_progress"
    done: int = 0
    failed: int = 0
    told: dict[str, Any] = field(default_factory=dict)
    task: "asyncio.Task[None] | None" = None

    @property
    def running(self) -> bool:
        return self.task is not None and not self.task.done()

    def object(self) -> dict[str, Any]:
        counts = {"total": self.total, "completed": self.done, "failed": self.failed}
        return {
            "id": self.id, "object": "batch", "endpoint": self.endpoint, "errors": None,
            "input_file_id": self.source, "completion_window": "24h", "status": self.status,
            "output_file_id": None, "error_file_id": None, "created_at": self.made,
            "metadata": self.metadata, "request_counts": counts, **self.told,
        }  # fmt: skip

    def mark(self, status: str) -> None:
        self.status = status
        self.told[f"{status}_at"] = int(time.time())

    def give_up(self, why: str) -> None:
        """Begin no more lines; what is answered stays."""
        self.lines.clear()
        error = {"code": "too_large", "message": why, "param": None, "line": None}
        self.told["errors"] = {"object": "list", "data": [error]}


@dataclass
class Office:
    """Files and batches; answers gives what answers a request to each endpoint."""

    answers: Mapping[str, Answer]
    parallel: int
    files: dict[str, File] = field(default_factory=dict)
    batches: dict[str, Batch] = field(default_factory=dict)

    async def upload(self, request: Request) -> dict[str, Any]:
        """Raises Fault."""
        if "content-length" not in request.headers:  # which was held against the limit
            raise Fault(411, "a file's length must be told before it: Content-Length is missing")
        async with asyncio.timeout(BODY_SECONDS), request.form(max_files=1, max_fields=10) as form:
            given, purpose = form.get("file"), form.get("purpose")
            if not isinstance(given, UploadFile):
                raise invalid("file", "is missing")
            if purpose != "batch":
                raise invalid("purpose", "is batch; files are for nothing else here")
            data = await given.read()
        if self._bytes() + len(data) > MOST_BYTES:
            raise Fault(413, f"the files have more than {MOST_BYTES} bytes; delete some")
        if len(self.files) >= MOST_FILES:
            raise Fault(413, f"there are {MOST_FILES} files already; delete some")
        file = File((given.filename or "file")[:200], "batch", data)
        return self._add(file)

    def _bytes(self) -> int:
        """Of the files, and of what batches hold, whose files may be gone."""
        held = sum(batch.nbytes for batch in self.batches.values())
        return sum(len(file.data) for file in self.files.values()) + held

    def _add(self, file: File) -> dict[str, Any]:
        self.files[file.id] = file
        return file.object()

    def file(self, name: str) -> File:
        if (file := self.files.get(name)) is None:
            raise Fault(404, f"there is no file {name[:60]}", code="not_found")
        return file

    def batch(self, name: str) -> Batch:
        if (batch := self.batches.get(name)) is None:
            raise Fault(404, f"there is no batch {name[:60]}", code="not_found")
        return batch

    def begin(self, fields: Fields) -> dict[str, Any]:
        """Raises Fault where the file or the endpoint isn't there, or there are too many lines."""
        source = self.file(fields.needed("input_file_id", fields.text))
        endpoint = fields.needed("endpoint", fields.text)
        if endpoint not in self.answers:
            raise invalid("endpoint", f"is one of {', '.join(self.answers)}")
        fields.needed("completion_window", fields.text)
        metadata = _metadata(fields)
        fields.ignore(["output_expires_after"])
        fields.end()
        lines = [line for line in source.data.split(b"\n") if line.strip()]
        if not 0 < len(lines) <= MOST_LINES:
            raise invalid("input_file_id", f"has {len(lines)} requests; give 1 to {MOST_LINES}")
        nbytes = sum(map(len, lines))
        if self._bytes() + nbytes > MOST_BYTES:
            raise Fault(413, f"files and batches have more than {MOST_BYTES} bytes; wait for some")
        if len(self.batches) >= MOST_BATCHES:
            self._forget_one()
        batch = Batch(endpoint, source.id, metadata, lines[::-1], len(lines), nbytes)
        batch.told["in_progress_at"] = int(time.time())
        self.batches[batch.id] = batch
        batch.task = asyncio.create_task(self._work(batch))
        batch.task.add_done_callback(partial(_end, batch))
        return batch.object()

    def _forget_one(self) -> None:
        """The oldest of those that have ended. Raises Fault where all of them run."""
        ended = next((batch.id for batch in self.batches.values() if not batch.running), None)
        if ended is None:
            raise Fault(429, f"{MOST_BATCHES} batches run already", code="queue_full",
                        headers={"Retry-After": "60"})  # fmt: skip
        del self.batches[ended]

    def cancel(self, batch: Batch) -> dict[str, Any]:
        if batch.task is not None and batch.running and batch.status != "cancelling":
            batch.task.cancel()
            batch.mark("cancelling")
        return batch.object()

    async def _work(self, batch: Batch) -> None:
        good, bad = list[bytes](), list[bytes]()

        async def work() -> None:
            while batch.lines:  # each of the workers takes the next one
                line = batch.lines.pop()
                answer = await self._line(batch.endpoint, line)
                told = json.dumps(answer).encode() + b"\n"
                more = len(told) - len(line)
                if self._bytes() + more > MOST_BYTES:
                    batch.give_up(f"files and batches have more than {MOST_BYTES} bytes")
                    return
                failed = answer["response"]["status_code"] != 200
                batch.nbytes += more
                batch.failed += failed
                batch.done += not failed
                (bad if failed else good).append(told)

        try:
            await asyncio.gather(*(work() for _ in range(self.parallel)))
        finally:
            for name, answers in (("output_file_id", good), ("error_file_id", bad)):
                if answers:
                    file = File(f"{batch.id}_{name[:-8]}.jsonl", "batch_output", b"".join(answers))
                    batch.told[name] = self._add(file)["id"]

    async def _line(self, endpoint: str, line: bytes) -> dict[str, Any]:
        """What becomes of a request: its answer, or the error, with its custom_id."""
        identity: Any = None
        while True:
            try:
                fields = read_json(line)
                identity = fields.take("custom_id")
                if fields.text("url") not in (None, endpoint):
                    raise invalid("url", f"is {endpoint}, as the batch's")
                fields.ignore(["method"])
                body = fields.needed("body", fields.inside)
                fields.end()
                status, answer = 200, await self.answers[endpoint](Fields(body.values))
            except Exception as error:  # the others go on, whatever it was
                fault = as_fault(error)
                if fault.status == 429:
                    await asyncio.sleep(PAUSE)
                    continue
                status, answer = fault.status, fault.body()
            told = {"status_code": status, "request_id": new_id("req"), "body": answer}
            return {"id": new_id("batch_req"), "custom_id": identity, "response": told,
                    "error": None}  # fmt: skip


def _metadata(fields: Fields) -> dict[str, str] | None:
    """Within OpenAI's own bounds: it stays as long as the batch is told of."""
    if (given := fields.inside("metadata")) is None:
        return None
    texts = {name: given.needed(name, given.text) for name in [*given.values]}
    if len(texts) > 16 or any(len(name) > 64 or len(text) > 512 for name, text in texts.items()):
        raise invalid("metadata", "has at most 16 texts of 512 characters, their names 64")
    return texts


def _end(batch: Batch, task: "asyncio.Task[None]") -> None:
    """Once its files of answers and errors are there."""
    batch.lines.clear()
    batch.nbytes = 0
    ended = "failed" if "errors" in batch.told else "completed"
    batch.mark("cancelled" if task.cancelled() else ended)


def batch_routes(office: Office) -> list[Route]:
    async def files(request: Request) -> Response:
        if request.method == "POST":
            return json_response(await office.upload(request))
        wanted = request.query_params.get("purpose")
        found = [file.object() for file in office.files.values()]
        return _page(request, [one for one in found if wanted in (None, one["purpose"])])

    async def file(request: Request) -> Response:
        file = office.file(request.path_params["name"])
        if request.method == "DELETE":
            del office.files[file.id]
            return json_response({"id": file.id, "object": "file", "deleted": True})
        return json_response(file.object())

    async def content(request: Request) -> Response:
        data = office.file(request.path_params["name"]).data
        return Response(data, media_type="application/octet-stream")

    async def batches(request: Request) -> Response:
        if request.method == "POST":
            return json_response(office.begin(await read_body(request)))
        return _page(request, [batch.object() for batch in office.batches.values()])

    async def batch(request: Request) -> Response:
        return json_response(office.batch(request.path_params["name"]).object())

    async def cancel(request: Request) -> Response:
        return json_response(office.cancel(office.batch(request.path_params["name"])))

    return [
        Route("/v1/files", files, methods=["GET", "POST"]),
        Route("/v1/files/{name}", file, methods=["GET", "DELETE"]),
        Route("/v1/files/{name}/content", content),
        Route("/v1/batches", batches, methods=["GET", "POST"]),
        Route("/v1/batches/{name}", batch),
        Route("/v1/batches/{name}/cancel", cancel, methods=["POST"]),
    ]


def _page(request: Request, found: list[dict[str, Any]]) -> Response:
    """The newest first, unless order is asc: at most limit of them, those behind the id after."""
    asked = request.query_params
    if asked.get("order") != "asc":
        found.reverse()
    after, limit = asked.get("after"), asked.get("limit", "")
    names = [one["id"] for one in found]
    start = names.index(after) + 1 if after in names else 0
    end = start + int(limit) if limit.isdecimal() and 0 < len(limit) < 10 else len(found)
    page = names[start:end]
    return json_response({
        "object": "list", "data": found[start:end], "has_more": end < len(found),
        "first_id": page[0] if page else None, "last_id": page[-1] if page else None,
    })  # fmt: skip
