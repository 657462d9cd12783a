"""Weight files on a server, read by byte range over HTTP; nothing of them is stored."""

import contextlib
import random
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import httpx2

from convert.errors import CheckpointError, SourceError
from convert.safetensors import WeightFile

CONTENT_RANGE = re.compile(r"bytes (\d{1,20})-(\d{1,20})/(\d{1,20})")
EXPIRED = (401, 403, 404, 410)  # how servers of signed addresses say that the time is up
BUSY = (408, 429)

FAILURES, REFUSALS = 8, 2  # in a row, after which a connection is met no more
# Seconds; a pause doubles from the first on.
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
LONGEST_WAIT = 120.0  # that a server may ask for by Retry-After
STALL, LEAST = 30.0, 1 << 16  # a connection that brings fewer bytes in so many seconds is given up


@dataclass(frozen=True)
class Location:
    """Where a file's bytes are served for now, and the headers to ask with."""

    url: str
    headers: Mapping[str, str]


def pause(failures: int) -> float:
    """Seconds to wait after so many failures in a row: shortened at random, so that readers don't
    come back all at once."""
    longest = min(FIRST_PAUSE * 2.0 ** (failures - 1), LONGEST_PAUSE)
    return longest * random.uniform(0.5, 1.0)


class Broken(Exception):
    """A request that may do better when it is made again, after wait seconds at least."""

    def __init__(self, reason: str, *, wait: float = 0.0, refused: bool = False) -> None:
        super().__init__(reason)
        self.wait = wait
        self.refused = refused


class RemoteFile(WeightFile):
    """A file behind HTTP, read by byte range by several threads at once.

    identity is what the server's index calls its contents (an ETag or hash). locate gives its
    address, and is asked again when that one has expired.
    """

    parallel = 8
    waits = True

    def __init__(
        self,
        name: str,
        size: int,
        identity: str,
        locate: Callable[[], Location],
        client: httpx2.Client,
    ) -> None:
        self.name = name
        self.size = size
        self.identity = identity
        self._locate = locate
        self._client = client
        self._location: Location | None = None
        self._etag: str | None = None
        self._lock = threading.Lock()
        self._cancelled = threading.Event()
        self._responses: set[httpx2.Response] = set()

    def read_into(self, offset: int, view: memoryview) -> None:
        """As many bytes as view holds; what breaks goes on at the byte where it broke.

        Raises SourceError where the server can't be reached for too long, CheckpointError where
        the file is no longer the same.
        """
        length, done, failures, refusals = len(view), 0, 0, 0
        while done < length:
            before = done
            try:
                for chunk in self._chunks(offset + done, length - done):
                    view[done : done + len(chunk)] = chunk
                    done += len(chunk)
            except Broken as error:
                failures = failures + 1 if done == before else 1
                refusals = refusals + error.refused if done == before else 0
                if failures >= FAILURES or refusals > REFUSALS:
                    fault = f"it can't be read, in {failures} tries: {error}"
                    raise SourceError(fault, file=self.name) from error
                self._pause(failures, error)

    def cancel(self) -> None:
        self._cancelled.set()
        for response in list(self._responses):
            stream = response.extensions.get("network_stream")
            connection = stream.get_extra_info("socket") if stream is not None else None
            if connection is not None:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def _chunks(self, offset: int, length: int) -> Iterator[bytes]:
        """The bytes asked for as they come, never more. Raises Broken where they don't."""
        location = self._current()
        asked = {"Range": f"bytes={offset}-{offset + length - 1}", "Accept-Encoding": "identity"}
        headers = {**location.headers, **asked}
        try:
            with self._client.stream("GET", location.url, headers=headers) as response:
                self._responses.add(response)
                try:
                    if self._cancelled.is_set():  # before the response could be seen by cancel
                        raise self._stopped()
                    self._check(response, location, offset)
                    yield from self._watched(response, length)
                finally:
                    self._responses.discard(response)
        except (httpx2.HTTPError, httpx2.InvalidURL, UnicodeError) as error:  # the last of a host
            raise Broken(str(error) or type(error).__name__) from error

    def _watched(self, response: httpx2.Response, length: int) -> Iterator[bytes]:
        """The answer, read to its end, so that its connection serves the next request as well."""
        since, lately = time.monotonic(), 0
        for chunk in response.iter_raw():
            if self._cancelled.is_set():
                raise self._stopped()
            if length <= 0:  # more than was asked for
                return
            yield chunk[:length]
            length -= len(chunk)
            lately += len(chunk)
            if time.monotonic() - since > STALL:
                if lately < LEAST:
                    raise Broken("it has all but stopped")
                since, lately = time.monotonic(), 0
        if length > 0:
            raise Broken("the answer ended early")

    def _current(self) -> Location:
        with self._lock:
            if self._cancelled.is_set():
                raise self._stopped()
            if self._location is None:
                self._location, self._etag = self._locate(), None
            return self._location

    def _check(self, response: httpx2.Response, location: Location, offset: int) -> None:
        """That the answer is the part of the same file that was asked for."""
        status = response.status_code
        if status in EXPIRED:
            with self._lock:
                if self._location is location:
                    self._location = None
            raise Broken(f"the server refuses it (HTTP {status})", refused=True)
        if status in BUSY or status >= 500:
            after = response.headers.get("Retry-After", "").strip()  # a date counts as none
            wait = float(after) if after.isdecimal() else 0.0
            raise Broken(f"the server answers HTTP {status}", wait=wait)
        if response.headers.get("Content-Encoding", "identity") != "identity":
            fault = "the server compresses what is to be read as it is"
            raise SourceError(fault, file=self.name)
        if status == 200:
            length = response.headers.get("Content-Length")
            if offset == 0 and length == str(self.size):
                return
            raise SourceError("the server doesn't give parts of files", file=self.name)
        span = CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if status == 206 and span and int(span[1]) == offset and int(span[3]) == self.size:
            self._check_etag(response, location)
            return
        if status in (206, 416):
            raise self._changed()
        raise SourceError(f"the server answers HTTP {status}", file=self.name)

    def _check_etag(self, response: httpx2.Response, location: Location) -> None:
        """One address serves one ETag; a new address may be another server's, with its own."""
        etag = response.headers.get("ETag")
        with self._lock:
            if etag is None or self._location is not location:
                return
            if self._etag not in (None, etag):
                raise self._changed()
            self._etag = etag

    def _changed(self) -> CheckpointError:
        return CheckpointError("it was changed at the source while it was read", file=self.name)

    def _stopped(self) -> SourceError:
        return SourceError("reading was stopped", file=self.name)

    def _pause(self, failures: int, error: Broken) -> None:
        if error.wait > LONGEST_WAIT:
            raise SourceError(
                f"it can't be read now: {error}, and asks for a pause of "
                f"{error.wait / 60:.0f} minutes",
                file=self.name,
                hint="call again then",
            ) from error
        if self._cancelled.wait(max(pause(failures), error.wait)):
            raise self._stopped()
