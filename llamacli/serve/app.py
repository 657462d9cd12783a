"""The server's routes: each reads a request, has it answered, and gives the answer its form.

The chat page is at /: its files, read once, and a policy that lets nothing else run.
"""

import asyncio
import json
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from llamacli.serve import local
from llamacli.serve.answers import Desk
from llamacli.serve.anthropic import MessageAnswer, count_tokens, read_message
from llamacli.serve.ask import Ask
from llamacli.serve.batches import Answer, Office, batch_routes
from llamacli.serve.chat import ChatAnswer, read_chat
from llamacli.serve.completions import CompletionAnswer, read_completion
from llamacli.serve.faults import Fault, as_fault, invalid
from llamacli.serve.fields import Fields, shown
from llamacli.serve.forms import EventStream, Form, LineStream, unless_gone
from llamacli.serve.guard import Endpoint, fault_response, guarded, json_response, read_body
from llamacli.serve.messages import read_messages
from llamacli.serve.pool import Loaded
from llamacli.serve.responses import ResponseAnswer, read_response
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


@dataclass
class Server:
    """What every route needs. ready is unset while the first model is loaded."""

    desk: Desk
    ready: asyncio.Event
    failed: str = ""
    log_prompts: bool = False

    def check_ready(self) -> None:
        if self.desk.draining:
            raise Fault(503, "the server stops", headers={"Connection": "close"})
        if not self.ready.is_set():
            raise Fault(503, "the model is being loaded", code="loading",
                        headers={"Retry-After": "1"})  # fmt: skip

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
        choices = enumerate(self.desk.pool.adapters)
        return json_response(
            [{"id": i, "path": one.path.name, "scale": one.scale} for i, one in choices]
        )

    async def answer_own(self, request: Request) -> Response:
        """The user's own programs, by the Unix socket."""
        local.check_own(request)
        self.check_ready()
        fields = await read_body(request)
        model = local.find_loaded(self.desk.pool, fields)
        lora = local.find_adapters(model, fields)
        if fields.flag("probe"):
            return json_response(local.model_object(model))
        ask = await asyncio.to_thread(local.read_local, fields, lora)
        async with AsyncExitStack() as stack:
            answers = await stack.enter_async_context(self.desk.answer(ask, model))
            request.scope["told"].append(f"{model.name} {answers.prompt_tokens} in")
            return LineStream(local.lines(answers), stack.pop_all())
        raise AssertionError


def make_app(server: Server) -> Starlette:
    routes = [
        Route("/health", guarded(server.health)),
        Route("/metrics", server.metrics),
        Route("/lora-adapters", guarded(server.adapters)),
        Route("/v1/models", guarded(server.models)),
        Route("/v1/models/{name:path}", guarded(server.models)),
        *_posts("/v1/chat/completions", _generating(server, read_chat, ChatAnswer)),
        *_posts("/v1/completions", _generating(server, read_completion, CompletionAnswer)),
        *_posts("/v1/responses", _generating(server, read_response, ResponseAnswer)),
        *_posts("/v1/messages", _generating(server, read_message, MessageAnswer)),
        *_posts("/v1/messages/count_tokens", _on_model(server, count_tokens)),
        *_posts("/tokenize", _on_model(server, tokenize)),
        *_posts("/detokenize", _on_model(server, detokenize)),
        *_posts("/apply-template", _on_model(server, apply_template)),
        *_posts("/own/answer", guarded(server.answer_own)),
        *page_routes(),
        *batch_routes(_office(server)),
    ]
    handlers: Any = {
        404: _nowhere, 405: _wrong_method, HTTPException: _refused, Exception: _unexpected,
    }  # fmt: skip
    return Starlette(routes=routes, exception_handlers=handlers)


def _posts(path: str, endpoint: Endpoint) -> list[Route]:
    return [Route(path, endpoint, methods=["POST"])]


def _office(server: Server) -> Office:
    def answer(read: Callable[[Fields], Ask], form: type[Form]) -> Answer:
        async def whole(fields: Fields) -> dict[str, Any]:
            ask = replace(await asyncio.to_thread(read, fields), stream=False)
            async with server.desk.answer(ask) as answers:
                return form(ask, answers).whole(await answers.whole())

        return whole

    answers = {
        "/v1/chat/completions": answer(read_chat, ChatAnswer),
        "/v1/completions": answer(read_completion, CompletionAnswer),
        "/v1/responses": answer(read_response, ResponseAnswer),
    }
    return Office(answers, server.desk.parallel)


def _generating(server: Server, read: Callable[[Fields], Ask], form: type[Form]) -> Endpoint:
    async def answer(request: Request) -> Response:
        server.check_ready()
        fields = await read_body(request)
        if server.log_prompts:
            notice(f"prompt: {json.dumps(fields.values)}")
        ask = await asyncio.to_thread(read, fields)
        headers = {"llamacli-ignored": ", ".join(ask.ignored)} if ask.ignored else {}
        async with AsyncExitStack() as stack:
            answers = await stack.enter_async_context(server.desk.answer(ask))
            told: list[str] = request.scope["told"]
            told.append(f"{answers.model.name} {answers.prompt_tokens} in")
            shaped = form(ask, answers)
            if ask.stream:
                return EventStream(shaped, stack.pop_all(), headers)
            completed = await unless_gone(request, answers.whole())
            made = sum(one.result.answer_tokens for one in completed if one.result is not None)
            told.append(f"{made} out")
            return json_response(shaped.whole(completed), headers=headers)

    return guarded(answer)


def _on_model(server: Server, work: Callable[[Loaded, Fields], dict[str, Any]]) -> Endpoint:
    async def answer(request: Request) -> Response:
        server.check_ready()
        fields = await read_body(request)
        name = fields.text("model")
        async with server.desk.pool.use(name) as model:
            return json_response(await asyncio.to_thread(work, model, fields))

    return guarded(answer)


def _created(path: Any) -> int:
    try:
        return int(path.stat().st_mtime)
    except OSError:
        return 0


async def _nowhere(request: Request, _: Exception) -> Response:
    path = request.url.path[:100]
    return fault_response(Fault(404, f"there is nothing at {path}", code="unknown_url"))


async def _wrong_method(request: Request, error: Any) -> Response:
    allowed = (error.headers or {}).get("Allow", "")
    fault = Fault(405, f"{request.method} is not for this path", headers={"Allow": allowed})
    return fault_response(fault)


async def _refused(_: Request, error: Any) -> Response:
    return fault_response(Fault(error.status_code, error.detail))


async def _unexpected(_: Request, error: Exception) -> Response:
    return fault_response(as_fault(error))


def tokenize(model: Loaded, fields: Fields) -> dict[str, Any]:
    """content's tokens: control tokens' spellings stay text, unless parse_special is true."""
    text = fields.needed("content", fields.text)
    special, bos = fields.flag("parse_special"), fields.flag("add_special")
    pieces = fields.flag("with_pieces")
    fields.end()
    vocabulary = model.engine.vocabulary
    add = bool(bos) and vocabulary.add_bos
    tokens = vocabulary.tokenize(text, special=bool(special), bos=add)
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
    contents = dict(_contents(files("llamacli.serve") / "page_files", ""))

    async def answer(request: Request) -> Response:
        name = request.path_params.get("name", "index.html")
        if name not in contents:
            return fault_response(Fault(404, "there is nothing there", code="unknown_url"))
        kind = PAGE_KINDS.get(name[name.rfind(".") :], "text/plain")
        return Response(contents[name], 200, PAGE_HEADERS, f"{kind}; charset=utf-8")

    return [Route("/", answer), Route("/page/{name:path}", answer)]


def _contents(folder: Traversable, start: str) -> list[tuple[str, bytes]]:
    contents: list[tuple[str, bytes]] = []
    for entry in folder.iterdir():
        name = f"{start}{entry.name}"
        contents += _contents(entry, f"{name}/") if entry.is_dir() else [(name, entry.read_bytes())]
    return contents
