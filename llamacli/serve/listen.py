"""Where the server listens: a port, and a Unix socket for the user's own programs."""

import errno
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from convert import lock as lock_file
from llamacli import system
from llamacli.errors import LlamacliError, UsageError

BACKLOG = 128
MAX_PATH = 100  # bytes; the system's sockaddr_un has 104 or 108


class Taken(LlamacliError):
    """Another server is there."""


def default_socket() -> Path:
    """In the user's runtime folder, readable by nobody else."""
    import warnings

    import platformdirs

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a $XDG_RUNTIME_DIR that others can read
        return Path(platformdirs.user_runtime_dir("llamacli")) / "serve.sock"


def identity(path: Path) -> list[int]:
    """What tells a model's file from another that took its place. Raises OSError."""
    status = path.stat()
    return [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns]


def own_socket() -> Path | None:
    """Where a socket of this user's is; another's would read the prompts."""
    path = default_socket()
    with suppress(OSError):
        status = path.lstat()
        if stat.S_ISSOCK(status.st_mode) and status.st_uid == system.user():
            return path
    return None


def listen_on_port(host: str, port: int) -> socket.socket:
    """Raises UsageError for a host that isn't here, Taken where another server listens."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP
        )[0]
    except (OSError, UnicodeError) as error:
        raise UsageError(f"the host {host!r} is not known: {error}") from None
    # Where the protocol isn't named, asyncio leaves Nagle's algorithm on: 40 ms an answer.
    listening = socket.socket(family, kind, protocol)
    system.claim_port(listening)
    try:
        listening.bind(address)
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise Taken(f"port {port} is taken by another program; give another --port") from None
        raise UsageError(f"can't listen on {host}:{port}: {error.strerror}") from None
    return listening


@contextmanager
def listen_on_socket(path: Path) -> Iterator[socket.socket]:
    """A Unix socket with mode 0600, gone at the end. A lock beside it tells whether its server
    lives; what a dead one left is replaced. Raises Taken where one lives, UsageError else."""
    listening, lock = _bound(path)
    try:
        yield listening
    finally:
        listening.close()
        with suppress(OSError):
            path.unlink()
        lock.close()


def _bound(path: Path) -> tuple[socket.socket, TextIO]:
    if len(os.fsencode(path)) > MAX_PATH:
        raise UsageError(f"the socket's path has more than {MAX_PATH} bytes; give --socket")
    try:
        system.unix_socket().close()  # where there are none, nothing is made
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = path.parent.stat()
        if folder.st_uid not in (system.user(), 0) or (
            folder.st_mode & 0o022 and not folder.st_mode & stat.S_ISVTX
        ):
            raise UsageError(f"others can write to {path.parent}; give another --socket")
        if os.path.lexists(path) and not stat.S_ISSOCK(path.lstat().st_mode):
            raise UsageError(f"{path} is there and is no socket; give another --socket")
        flags = os.O_CREAT | os.O_RDWR | system.NO_FOLLOW
        lock = os.fdopen(os.open(f"{path}.lock", flags, 0o600), "r+")
        try:
            lock_file(lock.fileno())
        except BlockingIOError:
            lock.close()
            raise Taken(f"another server has the socket {path}; give another --socket") from None
        with suppress(FileNotFoundError):
            path.unlink()
        listening = system.unix_socket()
        before = os.umask(0o177)
        try:
            listening.bind(os.fspath(path))
        finally:
            os.umask(before)
        listening.listen(BACKLOG)
    except OSError as error:
        raise UsageError(f"the socket {path} can't be made: {error.strerror}") from None
    return listening, lock
