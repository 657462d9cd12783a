"""A worker's life: it starts the process that lends, starts it again where it died, and ends it; on
another machine through ssh, reached through its tunnel."""

import shlex
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from socket import AF_INET, SOCK_STREAM, gaierror, getaddrinfo, socket

from llamacli.errors import LlamacliError, NotFoundError, UnreachableError, UsageError
from llamacli.system import claim_port
from llamacli.terminal import debugging
from llamacli.workers.addresses import Address
from llamacli.workers.greeting import greet
from llamacli.workers.lend import FAILED, command

START = 120.0  # seconds that the process may take to begin
SSH_START = 600.0  # through ssh, which may ask for a password first
SSH_END = 10.0
AGAIN = 1.0  # seconds before another one is started
TRIES, SOON = 5, 10.0  # so many that end within so many seconds, one after the other, are enough
CAME, WENT = b"Accepted client connection", b"Client connection closed"


@dataclass(frozen=True)
class Lending:
    """What is lent, and where; memory is in bytes, cache a folder for weights or None."""

    host: str = "127.0.0.1"
    port: int = 50052
    kind: str = "auto"
    memory: int | None = None
    threads: int = 1
    cache: Path | None = None
    openly: bool = False


def address_of(lending: Lending) -> Address:
    """The address as numbers, with a port that is free.

    Raises UsageError for one that others reach unless that is wanted, NotFoundError for one that
    isn't this machine's or is taken.
    """
    host = _numbers(lending.host)
    if not (ip_address(host).is_loopback or lending.openly):
        raise UsageError(
            f"{lending.host} is reached by others, and the protocol has neither key nor encryption",
            hint="go through ssh or WireGuard (docs/several-machines.md), or add --listen-openly",
        )
    with socket(AF_INET, SOCK_STREAM) as taken:
        claim_port(taken)
        try:
            taken.bind((host, lending.port))
        except OSError as error:
            raise NotFoundError(
                f"{lending.host}:{lending.port} can't be had: {error.strerror}",
                hint="give another --port",
            ) from error
        return Address(host, taken.getsockname()[1])


def host(
    lending: Lending, address: Address, ready: Callable[[], None], tell: Callable[[str], None]
) -> None:
    """Lend until a signal raises; ready is called when clients can come.

    Raises LlamacliError where the process that lends can't begin.
    """
    with _process(lending, address, tell) as process:
        _wait_for(process, address)
        ready()
        _wait(process)
    vain = 0
    while vain < TRIES:
        told = f"llama.cpp's server ended (exit code {process.returncode})"
        tell(f"{told}, over a client's message perhaps; it is started again")
        time.sleep(AGAIN)
        begun = time.monotonic()
        with _process(lending, address, tell) as process:
            _wait(process)
        vain = vain + 1 if time.monotonic() - begun < SOON else 0
    raise LlamacliError(
        "llama.cpp's server ends again and again", hint="--debug shows what it says"
    )


def wait_to_greet(address: Address, ended: Callable[[], bool], seconds: float) -> None:
    """Until a worker is there, or the program that was to start it has ended. Raises
    UnreachableError."""
    limit = time.monotonic() + seconds
    while True:
        try:
            greet(address).close()
            return
        except UnreachableError:
            if ended() or time.monotonic() > limit:
                raise
        time.sleep(0.1)


@contextmanager
def _process(
    lending: Lending, address: Address, tell: Callable[[str], None]
) -> Iterator["subprocess.Popen[bytes]"]:
    arguments = {
        "host": address.host,
        "port": address.port,
        "kind": lending.kind,
        "memory": lending.memory,
        "threads": lending.threads,
        "cache": str(lending.cache or ""),
    }
    pipe = subprocess.PIPE
    errors = None if debugging() else subprocess.DEVNULL
    process = subprocess.Popen(command(**arguments), stdin=pipe, stdout=pipe, stderr=errors)
    threading.Thread(target=_read, args=(process, tell), daemon=True).start()
    try:
        yield process
    finally:
        process.kill()  # nothing of it is worth keeping: what clients had there goes with them
        process.wait()
        with suppress(OSError):
            assert process.stdin is not None
            process.stdin.close()


def _read(process: "subprocess.Popen[bytes]", tell: Callable[[str], None]) -> None:
    """Tell of clients as llama.cpp does; the first of all is we ourselves."""
    assert process.stdout is not None
    words = {CAME: "a client came", WENT: "the client went"}
    clients = 0
    with process.stdout:
        for line in process.stdout:
            clients += line.strip() == CAME
            if clients > 1 and line.strip() in words:
                tell(words[line.strip()])


def _wait_for(process: "subprocess.Popen[bytes]", address: Address) -> None:
    try:
        wait_to_greet(address, lambda: process.poll() is not None, START)
    except UnreachableError as error:
        if process.poll() == FAILED:
            raise NotFoundError(f"llama.cpp can't listen at {address}") from error
        raise LlamacliError(
            f"llama.cpp's server didn't begin (exit code {process.poll()})",
            hint="--debug shows more",
        ) from error


def _wait(process: "subprocess.Popen[bytes]") -> None:
    while process.poll() is None:  # Windows gives signals to no process that waits for another
        with suppress(subprocess.TimeoutExpired):
            process.wait(1.0)


def _numbers(name: str) -> str:
    """A host's IPv4 address: llama.cpp knows no other. Raises NotFoundError."""
    try:
        return str(getaddrinfo(name, 0, AF_INET, SOCK_STREAM)[0][4][0])
    except (gaierror, UnicodeError) as error:
        raise NotFoundError(f"{name} is no IPv4 address of this machine") from error


def host_by_ssh(
    host: str,
    address: Address,
    port: int,
    program: str,
    arguments: Sequence[str],
    ready: Callable[[], None],
) -> None:
    """Start `program worker` at host, at its loopback's port, reached here at address.

    It ends when this does, however that ends: it reads its stdin, which is ssh's. Until then a
    signal must raise. Raises UnreachableError where ssh or the worker ends by itself.
    """
    if host.startswith("-") or not host.isprintable():
        raise UsageError(f"{host!r} is no host's name")
    remote = [*shlex.split(program), "worker", "--port", str(port), "--until-eof", *arguments]
    forward = f"127.0.0.1:{address.port}:127.0.0.1:{port}"
    options = ["-T", "-o", "ExitOnForwardFailure=yes", "-o", "ServerAliveInterval=15"]
    command = ["ssh", *options, "-L", forward, "--", host, shlex.join(remote)]
    try:
        process = subprocess.Popen(command, stdin=subprocess.PIPE)
    except FileNotFoundError:
        raise NotFoundError("there is no program ssh; install OpenSSH's client") from None
    try:
        try:
            wait_to_greet(address, lambda: process.poll() is not None, SSH_START)
        except UnreachableError as error:
            if process.poll() is not None:
                raise _ended(host, process) from error
            raise
        ready()
        _wait(process)
        raise _ended(host, process)
    finally:
        _end(process)


def _ended(host: str, process: "subprocess.Popen[bytes]") -> UnreachableError:
    return UnreachableError(
        f"ssh to {host} ended with code {process.returncode}",
        hint="what it or the worker there said stands above",
    )


def _end(process: "subprocess.Popen[bytes]") -> None:
    """By the end of its stdin, which the worker there sees; by force where that takes long."""
    assert process.stdin is not None
    with suppress(OSError):
        process.stdin.close()
    try:
        process.wait(SSH_END)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
