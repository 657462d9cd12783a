"""The routes of files and batches."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from llamacli.serve.batches import Office
from llamacli.serve.guard import json_response
from llamacli.serve.http import guarded, read_body


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
