"""The server's routes: each reads a request, has it answered, and gives the answer its form.

The chat page is at /: its files, read once, and a policy that lets nothing else run.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from sse_starlette import EventSourceResponse
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from llamacli.serve import local
from llamacli.serve.answers import Desk
from llamacli.serve.anthropic import MessageAnswer, count_tokens
from llamacli.serve.ask import Ask
from llamacli.serve.batches import Office, batch_routes
from llamacli.serve.chat import ChatAnswer
from llamacli.serve.completions import CompletionAnswer
from llamacli.serve.faults import FAULTS, Fault, as_fault, invalid
from llamacli.serve.fields import Fields, shown
from llamacli.serve.forms import Form, events, unless_gone
from llamacli.serve.guard import BODY_SECONDS, fault_response, json_response, read_body
from llamacli.serve.messages import read_messages
from llamacli.serve.pool import Loaded
from llamacli.serve.responses import ResponseAnswer
from llamacli.serve.tools import read_calling
from llamacli.terminal import notice

MAX_LISTED = 1 << 20  # tokens
PAGE_KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}

# What a batch's lines may ask, too.
FORMS: dict[str, type[Form]] = {
    "/v1/chat/completions": ChatAnswer,
    "/v1/completions": CompletionAnswer,
    "/v1/responses": ResponseAnswer,
}


@dataclass
class Server:
    """What every route needs. ready is false while the first model is loaded."""

    desk: Desk
    ready: bool = False

    def check_ready(self) -> None:
        if self.desk.draining:
            raise Fault(503, "the server stops", headers={"Connection": "close"})
        if not self.ready:
            raise Fault(503, "the model is being loaded", code="loading",
                        headers={"Retry-After": "1"})  # fmt: skip

    async def body(self, request: Request) -> Fields:
        """A request's, where it can be answered."""
        self.check_ready()
        return await read_body(request)

    async def health(self, _: Request) -> Response:
        self.check_ready()
        return json_response({"status": "ok"})

    async def metrics(self, _: Request) -> Response:
        text = self.desk.pool.metrics.text()
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    async def models(self, request: Request) -> Response:
        pool = self.desk.pool
        loaded = {model.path for model in pool.loaded.values()}
        listed: list[dict[str, Any]] = [
            {
                "id": name, "object": "model", "created": _created(path), "owned_by": "llamacli",
                "loaded": path in loaded,
            }
            for name, path in pool.names().items()
        ]  # fmt: skip
        if (name := request.path_params.get("name")) is None:
            return json_response({"object": "list", "data": listed})
        path = pool.path(name)
        return json_response(next(one for one in listed if pool.names()[one["id"]] == path))

    async def adapters(self, _: Request) -> Response:
        """As llama-server lists them: their numbers for the field lora, and the scales without."""
        self.check_ready()
        choices = enumerate(self.desk.pool.options.adapters)
        return json_response(
            [{"id": i, "path": one.path.name, "scale": one.scale} for i, one in choices]
        )

    @asynccontextmanager
    async def own_answer(self, request: Request) -> AsyncIterator[Response]:
        """To the user's own programs, by the Unix socket."""
        if not request.scope["own"]:
            raise HTTPException(404)
        fields = await self.body(request)
        model = local.find_loaded(self.desk.pool, fields)
        lora = local.find_adapters(model, fields)
        if fields.flag("probe"):
            yield json_response(local.model_object(model))
            return
        async with self.desk.pool.use(model):  # its words are counted by its vocabulary
            ask = await asyncio.to_thread(local.read_local, model, fields, lora)
        async with self.desk.answer(ask, model) as answers:
            request.scope["told"].append(f"{model.name} {answers.prompt_tokens} in")
            yield StreamingResponse(local.lines(answers), media_type="application/x-ndjson")

    @asynccontextmanager
    async def answer(self, request: Request, form: type[Form]) -> AsyncIterator[Response]:
        fields = await self.body(request)
        if self.desk.pool.options.log_prompts:
            notice(f"prompt: {json.dumps(fields.values)}")
        ask = await asyncio.to_thread(form.read, fields)
        headers = {"llamacli-ignored": ", ".join(ask.ignored)} if ask.ignored else {}
        async with self.desk.answer(ask) as answers:
            told: list[str] = request.scope["told"]
            told.append(f"{answers.model.name} {answers.prompt_tokens} in")
            formed = form(ask, answers)
            if ask.stream:
                yield EventSourceResponse(events(formed), headers=headers, sep="\n")
                return
            completed = await unless_gone(request, answers.whole())
            told.append(f"{sum(one.result.answer_tokens for one in completed)} out")
            response = json_response(formed.whole(completed), headers=headers)
        yield response  # who reads it slowly has no place in the queue meanwhile

    async def answer_line(self, form: type[Form], fields: Fields) -> dict[str, Any]:
        """A batch's."""
        ask = replace(await asyncio.to_thread(form.read, fields), stream=False)
        async with self.desk.answer(ask) as answers:
            return form(ask, answers).whole(await answers.whole())


@dataclass
class Held:
    """An endpoint whose stream of answers ends once it has gone out, or the client."""

    respond: Callable[[Request], AbstractAsyncContextManager[Response]]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self.respond(Request(scope, receive, send)) as response:
            await response(scope, receive, send)


def make_app(server: Server) -> Starlette:
    def post(path: str, endpoint: Any) -> Route:
        return Route(path, endpoint, methods=["POST"])

    answering = {**FORMS, "/v1/messages": MessageAnswer}
    in_batches = {path: partial(server.answer_line, form) for path, form in FORMS.items()}
    routes = [
        Route("/health", server.health),
        Route("/metrics", server.metrics),
        Route("/lora-adapters", server.adapters),
        Route("/v1/models", server.models),
        Route("/v1/models/{name:path}", server.models),
        *(post(path, Held(partial(server.answer, form=one))) for path, one in answering.items()),
        post("/v1/messages/count_tokens", _on_model(server, count_tokens)),
        post("/tokenize", _on_model(server, tokenize)),
        post("/detokenize", _on_model(server, detokenize)),
        post("/apply-template", _on_model(server, apply_template)),
        post("/own/answer", Held(server.own_answer)),
        *page_routes(),
        *batch_routes(Office(in_batches, server.desk.pool.options.parallel)),
    ]
    kinds = (*FAULTS, HTTPException, TimeoutError, ClientDisconnect, Exception)
    return Starlette(routes=routes, exception_handlers=dict.fromkeys(kinds, _tell))


def _on_model(
    server: Server, work: Callable[[Loaded, Fields], dict[str, Any]]
) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        fields = await server.body(request)
        async with server.desk.pool.use(fields.text("model")) as model:
            return json_response(await asyncio.to_thread(work, model, fields))

    return answer


def _created(path: Any) -> int:
    try:
        return int(path.stat().st_mtime)
    except OSError:
        return 0


async def _tell(request: Request, error: Any) -> Response:
    """What went wrong, as OpenAI's object."""
    if isinstance(error, ClientDisconnect):
        return Response(status_code=499)
    if isinstance(error, TimeoutError):
        told = f"the body didn't come within {BODY_SECONDS:g} seconds"
        return fault_response(Fault(408, told, headers={"Connection": "close"}))
    if not isinstance(error, HTTPException):
        return fault_response(as_fault(error))
    told, code = {
        404: (f"there is nothing at {request.scope['path'][:100]}", "unknown_url"),
        405: (f"{request.method} is not for this path", None),
    }.get(error.status_code, (error.detail, None))
    return fault_response(Fault(error.status_code, told, code=code, headers=error.headers or {}))


def tokenize(model: Loaded, fields: Fields) -> dict[str, Any]:
    """content's tokens: control tokens' spellings stay text, unless parse_special is true."""
    text = fields.needed("content", fields.text)
    special, bos = fields.flag("parse_special"), fields.flag("add_special")
    pieces = fields.flag("with_pieces")
    fields.end()
    vocabulary = model.engine.vocabulary
    tokens = vocabulary.tokenize(text, special=special, bos=bos and vocabulary.add_bos)
    if not pieces:
        return {"tokens": tokens}
    return {"tokens": [{"id": t, "piece": vocabulary.text_of([t])} for t in tokens]}


def detokenize(model: Loaded, fields: Fields) -> dict[str, Any]:
    tokens = fields.needed("tokens", fields.items)
    fields.end()
    vocabulary = model.engine.vocabulary
    if len(tokens) > MAX_LISTED:
        raise invalid("tokens", f"has {len(tokens)} of them; at most {MAX_LISTED} are read")
    for i, token in enumerate(tokens):
        if type(token) is not int or not 0 <= token < vocabulary.size:
            raise invalid(f"tokens.{i}", f"is {shown(token)}, no token of the model")
    return {"content": vocabulary.text_of(tokens)}


def apply_template(model: Loaded, fields: Fields) -> dict[str, Any]:
    """The prompt that the model reads for messages, and its tokens."""
    messages, calling = read_messages(fields), read_calling(fields)
    fields.end()
    tokens = Ask(None, [messages], calling=calling).encode(model.engine, messages)
    return {"prompt": model.engine.vocabulary.text_of(tokens), "tokens": tokens}


def page_routes() -> list[Route]:
    folder = Path(__file__).parent / "page_files"
    files = [path for path in folder.rglob("*") if path.is_file()]
    contents = {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}

    async def answer(request: Request) -> Response:
        name = request.path_params.get("name", "index.html")
        if name not in contents:
            raise HTTPException(404)
        kind = PAGE_KINDS.get(Path(name).suffix, "text/plain")
        return Response(contents[name], 200, PAGE_HEADERS, f"{kind}; charset=utf-8")

    return [Route("/", answer), Route("/page/{name:path}", answer)]
