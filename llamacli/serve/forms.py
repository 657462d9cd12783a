"""Answers on their way out: as events or lines of a stream, or whole, until the client hangs up."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, suppress
from typing import Any, Protocol

from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.requests import ClientDisconnect, Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from llamacli.errors import LlamacliError
from llamacli.serve.answers import Answers, Whole
from llamacli.serve.ask import Ask
from llamacli.serve.faults import Fault, as_fault

SEND_SECONDS = 30.0  # that a client may take to read a piece of a stream


class Form(Protocol):
    """An API's answers: one object, or the events of a stream, and what is said at its end.

    Without such an end, events are named by their type.
    """

    @property
    def done(self) -> str | None: ...

    def __init__(self, ask: Ask, answers: Answers) -> None: ...

    def whole(self, answers: list[Whole]) -> dict[str, Any]: ...

    def chunks(self) -> AsyncIterator[dict[str, Any]]: ...


class EventStream(EventSourceResponse):
    """Events of answers, which are cancelled when the response ends, however it does."""

    def __init__(self, form: Form, answers: AsyncExitStack, headers: dict[str, str]) -> None:
        super().__init__(
            _events(form), headers=headers, sep="\n", ping=15, send_timeout=SEND_SECONDS
        )
        self.answers = answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with suppress(TimeoutError):  # a reader that stalls loses its stream
                await super().__call__(scope, receive, send)
        finally:
            await self.answers.aclose()


async def _events(form: Form) -> AsyncIterator[ServerSentEvent]:
    try:
        async for chunk in form.chunks():
            yield _event(form, chunk)
    except (Fault, LlamacliError) as error:
        yield _event(form, as_fault(error).body())
    if form.done is not None:
        yield ServerSentEvent(form.done, sep="\n")


def _event(form: Form, chunk: dict[str, Any]) -> ServerSentEvent:
    name = chunk["type"] if form.done is None else None
    return ServerSentEvent(json.dumps(chunk), event=name, sep="\n")


class LineStream(StreamingResponse):
    """Lines of an answer, which is cancelled when the response ends."""

    def __init__(self, body: AsyncIterator[bytes], answers: AsyncExitStack) -> None:
        super().__init__(body, media_type="application/x-ndjson")
        self.answers = answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self.answers.aclose()


async def unless_gone(request: Request, work: Awaitable[list[Whole]]) -> list[Whole]:
    """What work gives, unless the client hangs up first. Raises ClientDisconnect, Fault."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, watching = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientDisconnect
    finally:
        working.cancel()
        watching.cancel()
