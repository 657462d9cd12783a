"""huggingface_hub's HTTP client with bounds: of time, of size, and of waiting for a busy Hub."""

import time
from contextlib import closing
from typing import Any

import httpx2
from huggingface_hub import get_session, set_client_factory

from llamacli.errors import InvalidModelError
from llamacli.hub.errors import retry_after

MAX_ANSWER = 32 << 20  # bytes; the index has some 300 a file
TIMEOUT = 20.0  # seconds without an answer
TRIES = 4  # where the Hub is busy
LONGEST_WAIT = 60.0  # seconds, for which a busy Hub is waited for before anything is fetched
OF_THE_BODY = {"content-encoding", "content-length", "transfer-encoding"}


def use_client() -> None:
    """Have every call of huggingface_hub go through the client below."""
    session = get_session()
    if not isinstance(session, _Client):
        hooks = session.event_hooks
        set_client_factory(lambda: _Client(event_hooks=hooks, follow_redirects=True, timeout=None))


class _Client(httpx2.Client):
    """Bounds what is asked for and read at once, as the Hub's index; not what is streamed."""

    def send(self, request: httpx2.Request, *, stream: bool = False, **options: Any) -> Any:
        if stream or request.method != "GET":
            return super().send(request, stream=stream, **options)
        request.extensions = {**request.extensions, "timeout": httpx2.Timeout(TIMEOUT).as_dict()}
        for attempt in range(1, TRIES + 1):
            with closing(super().send(request, stream=True, **options)) as response:
                wait = retry_after(response.headers)
                if wait is None:
                    wait = 0.5 * 2**attempt
                busy = response.status_code == 429 or response.status_code >= 500
                if not busy or attempt == TRIES or wait > LONGEST_WAIT:
                    return _whole(response)
            time.sleep(wait)
        raise AssertionError("the last attempt returns")


def _whole(response: httpx2.Response) -> httpx2.Response:
    """The answer with its body, of at most MAX_ANSWER bytes. Raises InvalidModelError."""
    body = bytearray()
    for chunk in response.iter_bytes():
        body += chunk
        if len(body) > MAX_ANSWER:
            raise InvalidModelError(f"the Hub's answer is absurdly large, over {MAX_ANSWER} bytes")
    headers = [(k, v) for k, v in response.headers.multi_items() if k not in OF_THE_BODY]
    return httpx2.Response(
        response.status_code, headers=headers, content=bytes(body), request=response.request
    )
