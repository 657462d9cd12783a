"""A worker's life: it starts the process that lends, starts it again where it died, and ends it; on
another machine through ssh, reached through its tunnel."""

import shlex
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from ipaddress import ip_address
from itertools import count
from socket import AF_INET, SOCK_STREAM, gaierror, getaddrinfo, socket
from typing import Any

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


def address_of(name: str, port: int, *, openly: bool = False) -> Address:
    """A host of this machine by its IPv4 address, llama.cpp knows no other, and a port that is
    free.

    Raises UsageError for one that others reach unless that is wanted, NotFoundError for one that
    isn't this machine's or is taken.
    """
    try:
        host = str(getaddrinfo(name, 0, AF_INET, SOCK_STREAM)[0][4][0])
    except (gaierror, UnicodeError) as error:
        raise NotFoundError(f"{name} is no IPv4 address of this machine") from error
    if not (ip_address(host).is_loopback or openly):
        raise UsageError(
            f"{name} is reached by others, and the protocol has neither key nor encryption",
            hint="go through ssh or WireGuard (docs/several-machines.md), or add --listen-openly",
        )
    with socket(AF_INET, SOCK_STREAM) as taken:
        claim_port(taken)
        try:
            taken.bind((host, port))
        except OSError as error:
            raise NotFoundError(
                f"{name}:{port} can't be had: {error.strerror}", hint="give another --port"
            ) from error
        return Address(host, taken.getsockname()[1])


def host(
    address: Address, ready: Callable[[], None], tell: Callable[[str], None], **lent: Any
) -> None:
    """Lend until a signal raises; ready is called when clients can come. lent are lend's arguments.

    Raises LlamacliError where the process that lends can't begin.
    """
    vain = 0
    for number in count():
        begun = time.monotonic()
        # the first client of the first process is we ourselves
        with _process(address, tell, untold=number == 0, **lent) as process:
            if number == 0:
                _wait_for(process, address)
                ready()
            _wait(process)
        vain = vain + 1 if time.monotonic() - begun < SOON else 0
        if vain == TRIES:
            break
        told = f"llama.cpp's server ended (exit code {process.returncode})"
        tell(f"{told}, over a client's message perhaps; it is started again")
        time.sleep(AGAIN)
    raise LlamacliError(
        "llama.cpp's server ends again and again", hint="--debug shows what it says"
    )


def wait_to_greet(address: Address, process: "subprocess.Popen[Any]", seconds: float) -> None:
    """Until a worker is there, or the process that was to start it has ended. Raises
    UnreachableError."""
    limit = time.monotonic() + seconds
    while True:
        try:
            greet(address).close()
            return
        except UnreachableError:
            if process.poll() is not None or time.monotonic() > limit:
                raise
        time.sleep(0.1)


@contextmanager
def _process(
    address: Address, tell: Callable[[str], None], *, untold: int, **lent: Any
) -> Iterator["subprocess.Popen[bytes]"]:
    pipe, errors = subprocess.PIPE, None if debugging() else subprocess.DEVNULL
    arguments = command(host=address.host, port=address.port, **lent)
    process = subprocess.Popen(arguments, stdin=pipe, stdout=pipe, stderr=errors)
    threading.Thread(target=_read, args=(process, tell, untold), daemon=True).start()
    try:
        yield process
    finally:
        process.kill()  # nothing of it is worth keeping: what clients had there goes with them
        process.wait()
        assert process.stdin is not None
        process.stdin.close()


def _read(process: "subprocess.Popen[bytes]", tell: Callable[[str], None], untold: int) -> None:
    """Tell of clients as llama.cpp does, but for the first ones."""
    assert process.stdout is not None
    words = {CAME: "a client came", WENT: "the client went"}
    clients = 0
    with process.stdout:
        for line in process.stdout:
            clients += line.strip() == CAME
            if clients > untold and line.strip() in words:
                tell(words[line.strip()])


def _wait_for(process: "subprocess.Popen[bytes]", address: Address) -> None:
    try:
        wait_to_greet(address, process, START)
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


def host_by_ssh(
    host: str,
    address: Address,
    port: int,
    program: str,
    arguments: Sequence[str],
    ready: Callable[[], None],
) -> None:
    """Start `program worker` at host, at its loopback's port, reached here at address. program is
    for the shell there, which knows what ~ is.

    It ends when this does, however that ends: it reads its stdin, which is ssh's. Until then a
    signal must raise. Raises UnreachableError where ssh or the worker ends by itself.
    """
    if host.startswith("-") or not host.isprintable():
        raise UsageError(f"{host!r} is no host's name")
    given = shlex.join(["worker", "--port", str(port), "--until-eof", *arguments])
    forward = f"127.0.0.1:{address.port}:127.0.0.1:{port}"
    # Of an error ssh tells so, too, and not of each try to reach a worker that isn't there yet.
    settings = ("ExitOnForwardFailure=yes", "ServerAliveInterval=15", "LogLevel=ERROR")
    options = ["-T", *(word for setting in settings for word in ("-o", setting))]
    command = ["ssh", *options, "-L", forward, "--", host, f"{program} {given}"]
    try:
        process = subprocess.Popen(command, stdin=subprocess.PIPE)
    except FileNotFoundError:
        raise NotFoundError("there is no program ssh; install OpenSSH's client") from None
    with process:
        try:
            wait_to_greet(address, process, SSH_START)
            ready()
            _wait(process)
        except UnreachableError:
            if process.poll() is None:
                raise
        finally:
            _end(process)
    raise UnreachableError(
        f"ssh to {host} ended with code {process.returncode}",
        hint="what it or the worker there said stands above",
    )


def _end(process: "subprocess.Popen[bytes]") -> None:
    """By the end of its stdin, which the worker there sees; by force where that takes long."""
    try:
        process.communicate(timeout=SSH_END)
    except subprocess.TimeoutExpired:
        process.kill()
