"""/v1/files and /v1/batches: a file of requests, answered beside others'. Kept in memory alone."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from llamacli.errors import LlamacliError
from llamacli.serve.faults import Fault, as_fault, invalid
from llamacli.serve.fields import Fields, read_json
from llamacli.serve.guard import json_response
from llamacli.serve.http import BODY_SECONDS, guarded, read_body
from llamacli.serve.openai import new_id

MOST_BYTES = 256 << 20  # of all files together
MOST_LINES = 50_000  # OpenAI's own
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
    source: File
    metadata: Any
    id: str = field(default_factory=lambda: new_id("batch"))
    status: str = "in_progress"
    done: int = 0
    failed: int = 0
    total: int = 0
    told: dict[str, Any] = field(default_factory=dict)
    task: "asyncio.Task[None] | None" = None

    def object(self) -> dict[str, Any]:
        counts = {"total": self.total, "completed": self.done, "failed": self.failed}
        return {
            "id": self.id, "object": "batch", "endpoint": self.endpoint, "errors": None,
            "input_file_id": self.source.id, "completion_window": "24h", "status": self.status,
            "output_file_id": None, "error_file_id": None, "created_at": self.source.made,
            "metadata": self.metadata, "request_counts": counts, **self.told,
        }  # fmt: skip

    def mark(self, status: str) -> None:
        self.status = status
        self.told[f"{status}_at"] = int(time.time())


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
        if sum(len(file.data) for file in self.files.values()) + len(data) > MOST_BYTES:
            raise Fault(413, f"the files have more than {MOST_BYTES} bytes; delete some")
        file = File((given.filename or "file")[:200], "batch", data)
        return self._add(file)

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
        metadata = fields.take("metadata")
        fields.ignore(["output_expires_after"])
        fields.end()
        lines = [line for line in source.data.split(b"\n") if line.strip()]
        if not 0 < len(lines) <= MOST_LINES:
            raise invalid("input_file_id", f"has {len(lines)} requests; give 1 to {MOST_LINES}")
        batch = Batch(endpoint, source, metadata, total=len(lines))
        batch.told["in_progress_at"] = int(time.time())
        self.batches[batch.id] = batch
        batch.task = asyncio.create_task(self._work(batch, lines))
        return batch.object()

    def cancel(self, batch: Batch) -> dict[str, Any]:
        if batch.task is not None and not batch.task.done():
            batch.task.cancel()
            batch.mark("cancelled")
        return batch.object()

    async def _work(self, batch: Batch, lines: list[bytes]) -> None:
        good, bad = list[bytes](), list[bytes]()
        waiting = iter(lines)

        async def work() -> None:
            for line in waiting:  # each of the workers takes the next one
                answer = await self._line(batch.endpoint, line)
                failed = answer["response"]["status_code"] != 200
                batch.failed += failed
                batch.done += not failed
                (bad if failed else good).append(json.dumps(answer).encode() + b"\n")

        try:
            await asyncio.gather(*(work() for _ in range(self.parallel)))
            batch.mark("completed")
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
            except (Fault, LlamacliError) as error:
                fault = as_fault(error)
                if fault.status == 429:
                    await asyncio.sleep(PAUSE)
                    continue
                status, answer = fault.status, fault.body()
            told = {"status_code": status, "request_id": new_id("req"), "body": answer}
            return {"id": new_id("batch_req"), "custom_id": identity, "response": told,
                    "error": None}  # fmt: skip


def batch_routes(office: Office) -> list[Route]:
    async def files(request: Request) -> Response:
        if request.method == "POST":
            return json_response(await office.upload(request))
        data = [file.object() for file in office.files.values()]
        return json_response({"object": "list", "data": data, "has_more": False})

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
        data = [batch.object() for batch in office.batches.values()]
        return json_response({"object": "list", "data": data, "has_more": False})

    async def batch(request: Request) -> Response:
        return json_response(office.batch(request.path_params["name"]).object())

    async def cancel(request: Request) -> Response:
        return json_response(office.cancel(office.batch(request.path_params["name"])))

    return [
        Route("/v1/files", guarded(files), methods=["GET", "POST"]),
        Route("/v1/files/{name}", guarded(file), methods=["GET", "DELETE"]),
        Route("/v1/files/{name}/content", guarded(content)),
        Route("/v1/batches", guarded(batches), methods=["GET", "POST"]),
        Route("/v1/batches/{name}", guarded(batch)),
        Route("/v1/batches/{name}/cancel", guarded(cancel), methods=["POST"]),
    ]
