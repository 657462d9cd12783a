"""llamacli worker: what lends this machine's devices, here and through ssh."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGINT, SIGTERM
from typing import IO

import pytest

from llamacli.errors import NotFoundError, UnreachableError
from llamacli.workers import Address, address_of, greet, measure
from llamacli.workers.greeting import _tensor
from llamacli.workers.hosting import wait_to_greet
from llamacli.workers.link import Link
from llamacli.workers.protocol import ALLOCATE, PAIR, U64, Command, part
from tests.standins.program import PROGRAM, run_program
from tests.standins.waiting import PATIENCE, wait_until
from tests.standins.workers import free_port
from tests.systems import needs_signals


@contextmanager
def lending(*options: str) -> Iterator["tuple[subprocess.Popen[str], IO[str], Address]"]:
    """A worker that lends the processor, what it says, and where it is."""
    port = free_port()
    command = [*PROGRAM, "worker", "--port", str(port), "--device", "cpu", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as child:
        assert child.stderr is not None
        try:
            yield child, child.stderr, Address("127.0.0.1", port)
        finally:
            child.terminate()


@needs_signals
def test_a_worker_ends_by_a_signal_and_says_what_it_lends() -> None:
    with lending("--memory", "1GiB") as (child, told, address):
        line = told.readline()
        assert line.startswith("llamacli: lends CPU (")
        assert line.endswith(f", 1.0 GiB free) at {address}\n")
        link = greet(address)
        assert [one.free for one in link.devices] == [1 << 30]
        link.close()
        child.send_signal(SIGTERM)
        assert child.wait(PATIENCE) == 128 + SIGTERM
        with pytest.raises(UnreachableError):
            greet(address)


def test_a_worker_lets_nobody_else_in_unasked() -> None:
    refused = run_program([*PROGRAM, "worker", "--host", "0.0.0.0", "--port", "0"], text=True)
    assert refused.returncode == 2
    assert "neither key nor encryption" in refused.stderr
    assert "--listen-openly" in refused.stderr
    assert address_of("0.0.0.0", 0, openly=True).host == "0.0.0.0"
    for name in ("127.0.0.1", "localhost"):
        assert address_of(name, 0).host == "127.0.0.1"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(NotFoundError, match="can't be had: Address already in use"):
            address_of("127.0.0.1", port)


def test_a_worker_outlives_a_client_that_llama_cpp_cannot_take() -> None:
    """A tensor beyond its buffer is an assertion in llama.cpp's server, which ends its process."""
    with lending() as (child, told, address):
        told.readline()
        kill(greet(address))
        while "started again" not in told.readline():
            assert child.poll() is None
        wait_to_greet(address, child, PATIENCE)
        while "a client came" not in (line := told.readline()):
            assert line, child.wait()


def kill(link: Link) -> None:
    buffer, _ = PAIR.unpack(link.ask(Command.ALLOC_BUFFER, ALLOCATE.pack(0, 4096)))
    (base,) = U64.unpack(link.ask(Command.BUFFER_GET_BASE, U64.pack(buffer)))
    beyond = _tensor(buffer, base + 4096, 4096)
    with pytest.raises(OSError, match=r"closed|reset"):
        link.ask(Command.GET_TENSOR, part(beyond, 0, 1), 1)
    with pytest.raises(UnreachableError, match=r"is lost: [^\[]"):
        measure(link)
    link.close()


SSH = """#!{python}
import socket, subprocess, sys, threading
arguments = sys.argv[1:]
_, here, _, there = arguments[arguments.index("-L") + 1].split(":")
assert arguments[-3] == "--" and arguments[-2] == "laptop" and "LogLevel=ERROR" in arguments
child = subprocess.Popen(["sh", "-c", arguments[-1]], stdin=sys.stdin)
listener = socket.create_server(("127.0.0.1", int(here)))

def pump(a, b):
    try:
        while data := a.recv(65536):
            b.sendall(data)
    except OSError:
        pass
    for one in (a, b):
        try:
            one.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

def run():
    while True:
        client, _ = listener.accept()
        try:
            far = socket.create_connection(("127.0.0.1", int(there)))
        except OSError:
            client.close()
            continue
        threading.Thread(target=pump, args=(client, far), daemon=True).start()
        threading.Thread(target=pump, args=(far, client), daemon=True).start()

threading.Thread(target=run, daemon=True).start()
sys.exit(child.wait())
"""


@needs_signals
def test_a_worker_by_ssh(tmp_path: Path) -> None:
    """By a program ssh that forwards a port on this machine, whose shell finds llamacli."""
    program = tmp_path / "bin" / "ssh"
    program.parent.mkdir()
    program.write_text(SSH.format(python=sys.executable))
    program.chmod(0o755)
    path = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHON_THERE": sys.executable}
    here = free_port()
    child = subprocess.Popen(
        [
            *(*PROGRAM, "worker", "--ssh", "laptop", "--port", str(here), "--device", "cpu"),
            *("--remote-program", '"$PYTHON_THERE" -m llamacli', "--remote-port"),
            str(far := free_port()),
        ],
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert child.stderr is not None
    while "laptop lends" not in (line := child.stderr.readline()):
        assert line, child.wait()
    assert f"--workers 127.0.0.1:{here}" in line
    link = greet(Address("127.0.0.1", here))
    link.close()
    child.send_signal(SIGINT)
    assert child.wait(PATIENCE) == 130
    child.stderr.close()
    wait_until(lambda: not _listens(far))


def _listens(port: int) -> bool:
    try:
        greet(Address("127.0.0.1", port)).close()
    except UnreachableError as error:
        return "refused" not in str(error)
    return True
