"""Asking a server of the same user, where one has the model loaded, instead of loading it."""

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path
from queue import Empty, Queue
from socket import SHUT_RDWR
from threading import Thread
from typing import TYPE_CHECKING, Any

from llamacli import system
from llamacli.answer import Chunk, Result
from llamacli.errors import LlamacliError, NotFoundError
from llamacli.serve.listen import own_socket

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

    def __init__(self, connection: "_Unix", response: HTTPResponse) -> None:
        self._connection, self._response = connection, response
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
        reading = False
        begun = time.perf_counter()
        lines = _read_ahead(self._line)
        try:
            while True:
                line = _next(lines, interrupted)
                if line is None:
                    seconds = time.perf_counter() - begun
                    yield Chunk("", self._cut("".join(texts), len(texts), seconds))
                    return
                if isinstance(line, LlamacliError):
                    raise line
                if (error := line.get("error")) is not None:
                    fault = LlamacliError(error)
                    fault.exit_code = line["exit_code"]
                    raise fault
                if on_progress is not None and (reading or "read" in line):
                    all_of_it = self.head["prompt_tokens"]
                    on_progress(line.get("read", all_of_it), all_of_it)
                    reading = "read" in line
                if (text := line.get("text")) is not None:
                    begun = begun if texts else time.perf_counter()
                    texts.append(text)
                    yield Chunk(text)
                if (result := line.get("result")) is not None:
                    result["tokens"] = tuple(result["tokens"])
                    yield Chunk("", Result(**result))
                    return
        finally:
            self._connection.hang_up()

    def _cut(self, text: str, pieces: int, seconds: float) -> Result:
        """What was said until a signal came; the tokens' number is at least that of the pieces."""
        return interrupted_result(self.head["prompt_tokens"], text, pieces, seconds)

    def _line(self) -> Line:
        try:
            line: Line = json.loads(self._response.readline())
            return line
        except (OSError, HTTPException, ValueError, AttributeError):
            raise NotFoundError(
                "the server is gone in the middle of the answer", hint=WITHOUT
            ) from None


def interrupted_result(prompt: int, text: str = "", tokens: int = 0, seconds: float = 0) -> Result:
    """Of an answer that a signal ended: whose tokens they were isn't known, only how many."""
    return Result(text, (0,) * tokens, "interrupted", prompt, 0, 0.0, seconds if tokens else 0.0, 0)


def _read_ahead(read: Callable[[], Line]) -> "Queue[Line | LlamacliError]":
    """The lines up to the last, read in a thread, so that a signal needn't wait for one."""
    lines: Queue[Line | LlamacliError] = Queue()

    def fill() -> None:
        line: Line = {}
        while not line.keys() & {"result", "error"}:
            try:
                line = read()
            except LlamacliError as error:
                lines.put(error)
                return
            lines.put(line)

    Thread(target=fill, daemon=True).start()
    return lines


def _next(
    lines: "Queue[Line | LlamacliError]", interrupted: Callable[[], bool]
) -> Line | LlamacliError | None:
    """The next one; None where a signal comes first."""
    while not interrupted():
        with suppress(Empty):
            return lines.get(timeout=GLANCE)
    return None


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


def has_loaded(path: Path, adapters: dict[str, Any]) -> bool:
    """Whether a server of the user's has the file at path loaded, and adapters, a request's."""
    return loaded(path, adapters) is not None


def loaded(path: Path, adapters: dict[str, Any]) -> dict[str, Any] | None:
    """A loaded model's name, quantization and context; None where no server has it so."""
    reply = _request(path, {"probe": True, **adapters}, GLIMPSE)
    if reply is None:
        return None
    connection, response = reply
    with closing(connection):
        if response.status != HTTPStatus.OK:
            return None
        try:
            about: dict[str, Any] = json.loads(response.read())
        except (OSError, HTTPException, ValueError):
            return None
    return about if isinstance(about.get("context"), int) else None


def ask_server(path: Path, body: dict[str, Any]) -> LocalAnswer | None:
    """The answer of a server that has the file at path loaded; None where none has.

    body has the fields of /own/answer but for file and identity. What a server refuses, the
    program refuses by itself, in its own words.
    """
    reply = _request(path, body)
    if reply is None:
        return None
    connection, response = reply
    if response.status == HTTPStatus.OK:
        return LocalAnswer(connection, response)
    connection.close()
    return None


def answer_whole(path: Path, body: dict[str, Any], interrupted: Callable[[], bool]) -> Result:
    """The result of an answer, waiting while the server's queue is full. Raises as begin does."""
    result = list(begin(path, body, interrupted).chunks(interrupted))[-1].result
    assert result is not None
    return result


def begin(path: Path, body: dict[str, Any], interrupted: Callable[[], bool]) -> LocalAnswer:
    """An answer that has begun, waiting while the server's queue is full.

    Raises Refused, NotFoundError where the server is gone, and what the answer ended with.
    """
    while True:
        reply = _request(path, body)
        if reply is None:
            raise NotFoundError("the server is gone", hint=WITHOUT)
        connection, response = reply
        if response.status == HTTPStatus.OK:
            return LocalAnswer(connection, response)
        told = response.read()
        connection.close()
        if response.status != HTTPStatus.TOO_MANY_REQUESTS or interrupted():
            raise Refused(json.loads(told)["error"]["message"])
        time.sleep(PAUSE)


def _request(
    path: Path, body: dict[str, Any], seconds: float | None = None
) -> "tuple[_Unix, HTTPResponse] | None":
    """The response to a request about a file; None where no server is there, or where it hasn't
    come after so many seconds."""
    where = own_socket()
    if where is None:
        return None
    connection = _Unix(where)
    try:
        connection.connect()
        file = path.resolve()
        status = file.stat()
        seen = [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns]
        asked = json.dumps({"file": str(file), "identity": seen, **body}).encode()
        connection.request("POST", "/own/answer", asked, {"Host": "localhost"})
        assert connection.sock is not None
        connection.sock.settimeout(seconds)
        return connection, connection.getresponse()
    except (OSError, HTTPException):
        connection.close()
        return None


class _Unix(HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=PATIENCE)
        self.path = path

    def connect(self) -> None:
        self.sock = self.line = system.unix_socket()
        self.sock.settimeout(PATIENCE)
        self.sock.connect(os.fspath(self.path))

    def hang_up(self) -> None:
        """Close it though a thread may be reading: closing alone would wait for what that reads."""
        with suppress(OSError):
            self.line.shutdown(SHUT_RDWR)
        self.close()
