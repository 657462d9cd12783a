"""Answers on their way out: as events or lines of a stream, or whole, until the client hangs up."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack
from typing import Any, Protocol

from sse_starlette import EventSourceResponse
from starlette.requests import ClientDisconnect, Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from llamacli.serve.answers import Answers, Whole
from llamacli.serve.ask import Ask
from llamacli.serve.faults import FAULTS, as_fault


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
        super().__init__(_events(form), headers=headers, sep="\n", ping=15)
        self.answers = answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self.answers.aclose()


async def _events(form: Form) -> AsyncIterator[bytes]:
    try:
        async for chunk in form.chunks():
            yield _event(form, chunk)
    except FAULTS as error:
        yield _event(form, as_fault(error).body())
    if form.done is not None:
        yield f"data: {form.done}\n\n".encode()


def _event(form: Form, chunk: dict[str, Any]) -> bytes:
    """JSON in ASCII has no line of its own in a text."""
    name = f"event: {chunk['type']}\n" if form.done is None else ""
    return f"{name}data: {json.dumps(chunk)}\n\n".encode()


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
