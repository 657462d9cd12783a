"""Asking a server of the same user, where one has the model loaded, instead of loading it."""

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path
from queue import Empty, Queue
from selectors import EVENT_READ, DefaultSelector
from socket import SHUT_RDWR
from threading import Thread
from typing import TYPE_CHECKING, Any

from llamacli import system
from llamacli.answer import Chunk, Result
from llamacli.errors import LlamacliError, NotFoundError
from llamacli.serve.listen import identity, own_socket

if TYPE_CHECKING:  # what makes answers stays out: importing it costs run 0.1 s
    from llamacli.answer import Calling
    from llamacli.engine import AdapterChoice, ProgressCallback

Line = dict[str, Any]

WITHOUT = "--no-server goes without it"
BY_SERVER = f"a server that has the model loaded answers; {WITHOUT}"

GLANCE = 0.05  # seconds between looks for a signal
PAUSE = 0.2  # seconds before a full queue is asked again
GLIMPSE = 5.0  # seconds for a server to say what it has loaded
PATIENCE = 2.0  # seconds for a server to take a request; one that hangs is as if it weren't there


class LocalAnswer:
    """An answer by a server: head says of what model, and the prompt's tokens."""

    def __init__(self, reply: "_Reply") -> None:
        self._reply = reply
        self.head: dict[str, Any] = self._line()["head"]

    def chunks(
        self,
        interrupted: Callable[[], bool] = lambda: False,
        on_progress: "ProgressCallback | None" = None,
    ) -> Iterator[Chunk]:
        """Pieces of text, as generate gives them; hanging up ends it where interrupted says so.

        on_progress gets (tokens read, all) of the prompt where the request asks for that. Raises
        LlamacliError where the server says so, NotFoundError where it is gone.
        """
        texts: list[str] = []
        reading, prompt = False, self.head["prompt_tokens"]
        begun = time.perf_counter()
        lines = self._read_ahead()
        try:
            while not interrupted():
                try:
                    line = lines.get(timeout=GLANCE)
                except Empty:
                    continue
                if isinstance(line, LlamacliError):
                    raise line
                if (error := line.get("error")) is not None:
                    fault = LlamacliError(error)
                    fault.exit_code = line["exit_code"]
                    raise fault
                if on_progress is not None and (reading or "read" in line):
                    on_progress(line.get("read", prompt), prompt)
                    reading = "read" in line
                if (text := line.get("text")) is not None:
                    begun = begun if texts else time.perf_counter()
                    texts.append(text)
                    yield Chunk(text)
                if (result := line.get("result")) is not None:
                    result["tokens"] = tuple(result["tokens"])
                    yield Chunk("", Result(**result))
                    return
            # The tokens' number is at least that of the pieces.
            seconds = time.perf_counter() - begun
            yield Chunk("", interrupted_result(prompt, "".join(texts), len(texts), seconds))
        finally:
            self._reply.hang_up()

    def _read_ahead(self) -> "Queue[Line | LlamacliError]":
        """The lines up to the last, read in a thread, so that a signal needn't wait for one."""
        lines: Queue[Line | LlamacliError] = Queue()

        def fill() -> None:
            line: Line = {}
            while not line.keys() & {"result", "error"}:
                try:
                    line = self._line()
                except LlamacliError as error:
                    lines.put(error)
                    return
                lines.put(line)

        Thread(target=fill, daemon=True).start()
        return lines

    def _line(self) -> Line:
        try:
            line: Line = json.loads(self._reply.response.readline())
            return line
        except (OSError, HTTPException, ValueError, AttributeError):
            raise NotFoundError(
                "the server is gone in the middle of the answer", hint=WITHOUT
            ) from None


def interrupted_result(prompt: int, text: str = "", tokens: int = 0, seconds: float = 0) -> Result:
    """Of an answer that a signal ended: whose tokens they were isn't known, only how many."""
    return Result(text, (0,) * tokens, "interrupted", prompt, 0, 0.0, seconds if tokens else 0.0, 0)


def calling_field(calling: "Calling | None") -> dict[str, Any]:
    """The field of a request that says what may be called."""
    if calling is None:
        return {}
    from llamacli.tools import DEFAULT_THRESHOLD

    threshold = DEFAULT_THRESHOLD if calling.threshold is None else calling.threshold
    fields = {
        "tools": [tool.given for tool in calling.tools],
        "choice": calling.choice,
        "parallel": calling.parallel,
        "threshold": threshold,
    }
    return {"calling": fields}


def adapters_field(choices: "Sequence[AdapterChoice]") -> dict[str, Any]:
    """The field of a request that names adapters: a server that hasn't loaded them won't answer."""
    if not choices:
        return {}
    from llamacli.gguf import file_identity

    named = [{"identity": file_identity(one.path), "scale": one.scale} for one in choices]
    return {"adapters": named}


class Refused(LlamacliError):
    """A server has the model and won't answer this."""


class Busy(Refused):
    """Its queue is full."""


def loaded(path: Path, adapters: dict[str, Any]) -> dict[str, Any] | None:
    """A loaded model's name, quantization and context; None where no server of the user's has the
    file at path loaded, and adapters, a request's."""
    reply = _request(path, {"probe": True, **adapters}, seconds=GLIMPSE)
    about = reply.whole() if reply is not None else {}
    return about if isinstance(about.get("context"), int) else None


def ask_server(path: Path, body: dict[str, Any]) -> LocalAnswer | None:
    """The answer of a server that has the file at path loaded; None where none has.

    body has the fields of /own/answer but for file and identity. What a server refuses, the
    program refuses by itself, in its own words.
    """
    with suppress(NotFoundError, Refused):
        return _ask(path, body)
    return None


def answer_whole(path: Path, body: dict[str, Any], interrupted: Callable[[], bool]) -> Result:
    """The result of an answer, waiting while the server's queue is full. Raises as begin does."""
    result = list(begin(path, body, interrupted).chunks(interrupted))[-1].result
    assert result is not None
    return result


def begin(path: Path, body: dict[str, Any], interrupted: Callable[[], bool]) -> LocalAnswer:
    """An answer that has begun, waiting while the server's queue is full.

    Raises Refused, NotFoundError where the server is gone, and either where a signal comes first.
    """
    while True:
        try:
            return _ask(path, body, interrupted)
        except Busy:
            if interrupted():
                raise
        time.sleep(PAUSE)


def _ask(
    path: Path, body: dict[str, Any], interrupted: Callable[[], bool] = lambda: False
) -> LocalAnswer:
    """An answer that has begun. Raises as begin does, and Busy."""
    reply = _request(path, body, interrupted)
    if reply is not None and reply.response.status == HTTPStatus.OK:
        return LocalAnswer(reply)
    if reply is None or not (told := reply.whole()):
        raise NotFoundError("the server is gone", hint=WITHOUT)
    kind = Busy if reply.response.status == HTTPStatus.TOO_MANY_REQUESTS else Refused
    raise kind(told["error"]["message"])


def _request(
    path: Path,
    body: dict[str, Any],
    interrupted: Callable[[], bool] = lambda: False,
    seconds: float = math.inf,
) -> "_Reply | None":
    """The response to a request about a file; None where no server is there, or where it hasn't
    come after so many seconds, or before a signal."""
    where = own_socket()
    if where is None:
        return None
    reply = _Reply(where)
    try:
        reply.connect()
        file = path.resolve()
        asked = json.dumps({"file": str(file), "identity": identity(file), **body}).encode()
        reply.request("POST", "/own/answer", asked)
        begun = time.monotonic()
        with DefaultSelector() as answered:  # of any number of open files, unlike select
            answered.register(reply.line, EVENT_READ)
            while not answered.select(GLANCE):
                if interrupted() or time.monotonic() - begun > seconds:
                    raise TimeoutError
        reply.line.settimeout(None)
        reply.response = reply.getresponse()
        return reply
    except (OSError, HTTPException):
        reply.close()
        return None


class _Reply(HTTPConnection):
    """A connection to the user's socket, and what comes by it."""

    response: HTTPResponse

    def __init__(self, path: Path) -> None:
        super().__init__("localhost")
        self.path = path

    def connect(self) -> None:
        self.sock = self.line = system.unix_socket()
        self.sock.settimeout(PATIENCE)
        self.sock.connect(os.fspath(self.path))

    def whole(self) -> dict[str, Any]:
        """What it has, an object; nothing where that doesn't come."""
        with closing(self), suppress(OSError, HTTPException, ValueError):
            told: dict[str, Any] = json.loads(self.response.read())
            return told
        return {}

    def hang_up(self) -> None:
        """Close it though a thread may be reading: closing alone would wait for what that reads."""
        with suppress(OSError):
            self.line.shutdown(SHUT_RDWR)
        self.close()
