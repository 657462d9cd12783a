"""What every route needs: a request's body, read with limits, and errors as OpenAI's object."""

import asyncio
from collections.abc import Awaitable, Callable

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from llamacli.serve.faults import FAULTS, Fault, as_fault
from llamacli.serve.fields import Fields, read_json
from llamacli.serve.guard import MAX_BODY, fault_response, too_large

BODY_SECONDS = 30.0  # that a client may take to send a request
LARGE = 1 << 18  # bytes of JSON that are read in a thread of their own

Endpoint = Callable[[Request], Awaitable[Response]]


def guarded(endpoint: Endpoint) -> Endpoint:
    """The same, its errors as OpenAI's object."""

    async def answered(request: Request) -> Response:
        try:
            return await endpoint(request)
        except FAULTS as error:
            return fault_response(as_fault(error))
        except TimeoutError:
            return fault_response(Fault(408, "the body didn't come in time"))
        except ClientDisconnect:
            return Response(status_code=499)

    return answered


async def read_body(request: Request) -> Fields:
    """Raises Fault: 408 for a slow client, 413 for a large body, 400 for what isn't JSON."""
    parts, size = [], 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                size += len(part)
                if size > MAX_BODY:
                    raise too_large()
                parts.append(part)
    except TimeoutError:
        raise Fault(408, f"the body didn't come within {BODY_SECONDS:g} seconds",
                    headers={"Connection": "close"}) from None  # fmt: skip
    body = b"".join(parts)
    if size > LARGE:
        return await asyncio.to_thread(read_json, body)
    return read_json(body)
