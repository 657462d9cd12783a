"""Workers for tests: real ones in processes of their own, and what can come between."""

import random
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from llamacli.workers import Address
from llamacli.workers.hosting import wait_to_greet
from llamacli.workers.lend import command
from tests.standins.waiting import PATIENCE


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@dataclass
class Started:
    """A worker that lends the processor, with one thread."""

    process: "subprocess.Popen[bytes]"
    address: Address

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE)


@contextmanager
def worker(
    port: int = 0, memory: int | None = None, cache: Path | None = None
) -> Iterator[Started]:
    """One that answers, killed at the end."""
    address = Address("127.0.0.1", port or free_port())
    arguments = {"host": address.host, "port": address.port, "kind": "cpu", "threads": 1}
    process = subprocess.Popen(
        command(**arguments, memory=memory, cache=str(cache or "")),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    started = Started(process, address)
    try:
        wait_to_greet(address, process, PATIENCE)
        yield started
    finally:
        started.kill()
        assert process.stdin is not None
        process.stdin.close()


class Between:
    """A way to a worker that counts what goes there, and changes what comes back.

    reached is called once as many bytes as `most` have gone there; change gets each piece of an
    answer, and gives what llama.cpp's side gets for it, None to say nothing ever again.
    """

    def __init__(
        self,
        target: Address,
        most: float = float("inf"),
        reached: Callable[[], None] = lambda: None,
        change: Callable[[bytes], bytes | None] = lambda data: data,
    ) -> None:
        self.target, self.most, self.reached, self.change = target, most, reached, change
        self.passed = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = Address(*self.listener.getsockname()[:2])
        threading.Thread(target=self._run, daemon=True).start()

    def close(self) -> None:
        with suppress(OSError), socket.create_connection(self.address):
            self.listener.close()

    def _run(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            try:
                there = socket.create_connection(self.target)
            except OSError:
                client.close()
                continue
            threading.Thread(target=self._up, args=(client, there), daemon=True).start()
            threading.Thread(target=self._down, args=(there, client), daemon=True).start()

    def _up(self, client: socket.socket, there: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(1 << 16):
                self.passed += len(data)
                if self.passed >= self.most:
                    self.most = float("inf")
                    self.reached()
                there.sendall(data)
        _end(there)

    def _down(self, there: socket.socket, client: socket.socket) -> None:
        with suppress(OSError):
            while data := there.recv(1 << 16):
                changed = self.change(data)
                if changed is None:
                    return
                client.sendall(changed)
        _end(client)


def garbling(seed: int, share: float = 0.05) -> Callable[[bytes], bytes | None]:
    """A change that spoils a share of the pieces: bytes of it, its length, or all of it."""
    chance = random.Random(seed)

    def change(data: bytes) -> bytes:
        if chance.random() > share:
            return data
        kind, at = chance.randrange(4), chance.randrange(len(data))
        if kind == 0:
            return data[:at] + chance.randbytes(1) + data[at + 1 :]
        if kind == 1:
            return data[:at]
        if kind == 2:
            return data + chance.randbytes(1 + at % 64)
        return chance.randbytes(len(data))

    return change


def stalling(target: Address, most: int, stalled: list[bool]) -> Between:
    """A way whose answers end once so many bytes have gone there, when stalled gets an element."""
    return Between(
        target,
        most,
        reached=lambda: stalled.append(True),
        change=lambda data: None if stalled else data,
    )


@contextmanager
def speaking(answer: bytes) -> Iterator[Address]:
    """A port that gives one answer to whatever is said there, and then none."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            with suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    client.recv(1 << 16)
                    client.sendall(answer)
                    held.append(client)

        held: list[socket.socket] = []
        threading.Thread(target=run, daemon=True).start()
        try:
            yield Address(*listener.getsockname()[:2])
        finally:
            for client in held:
                client.close()


def _end(sock: socket.socket) -> None:
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()
