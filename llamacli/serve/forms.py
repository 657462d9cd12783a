"""Answers on their way out: as the events of a stream, or whole, until the client hangs up."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable
from typing import Any, Protocol

from starlette.requests import ClientDisconnect, Request

from llamacli.serve.answers import Answers, Whole
from llamacli.serve.ask import Ask
from llamacli.serve.faults import FAULTS, as_fault
from llamacli.serve.fields import Fields


class Form(Protocol):
    """An API's requests and answers: one object, or the events of a stream.

    done is said at a stream's end; without it, events are named by their type.
    """

    @property
    def done(self) -> str | None: ...

    @staticmethod
    def read(fields: Fields) -> Ask:
        """Raises Fault with the field's path."""

    def __init__(self, ask: Ask, answers: Answers) -> None: ...

    def whole(self, answers: list[Whole]) -> dict[str, Any]: ...

    def chunks(self) -> AsyncIterator[dict[str, Any]]: ...


async def events(form: Form) -> AsyncIterator[bytes]:
    """The stream's; what goes wrong in the middle of it is one of them."""
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
