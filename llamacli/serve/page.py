"""The chat page at /: its files, read once, and a policy that lets nothing else run."""

from importlib.resources import files
from importlib.resources.abc import Traversable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from llamacli.serve.faults import Fault
from llamacli.serve.guard import fault_response

KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def page_routes() -> list[Route]:
    contents = dict(_read(files("llamacli.serve") / "page_files", ""))

    async def answer(request: Request) -> Response:
        name = request.path_params.get("name", "index.html")
        if name not in contents:
            return fault_response(Fault(404, "there is nothing there", code="unknown_url"))
        kind = KINDS.get(name[name.rfind(".") :], "text/plain")
        return Response(contents[name], 200, HEADERS, f"{kind}; charset=utf-8")

    return [Route("/", answer), Route("/page/{name:path}", answer)]


def _read(folder: Traversable, start: str) -> list[tuple[str, bytes]]:
    contents: list[tuple[str, bytes]] = []
    for entry in folder.iterdir():
        name = f"{start}{entry.name}"
        contents += _read(entry, f"{name}/") if entry.is_dir() else [(name, entry.read_bytes())]
    return contents
