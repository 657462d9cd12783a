"""A worker on another machine, started through ssh and reached through its tunnel."""

import shlex
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress

from llamacli.errors import NotFoundError, UnreachableError, UsageError
from llamacli.workers.addresses import Address
from llamacli.workers.hosting import wait_to_greet

START = 600.0  # seconds; ssh may ask for a password first
END = 10.0


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
            wait_to_greet(address, lambda: process.poll() is not None, START)
        except UnreachableError as error:
            if process.poll() is not None:
                raise _ended(host, process) from error
            raise
        ready()
        while process.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                process.wait(1.0)
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
        process.wait(END)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
