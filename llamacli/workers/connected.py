"""The workers of one engine: connected, relayed, and known to llama.cpp as devices."""

import ctypes
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Self

from llamacli.errors import LlamacliError, UnreachableError, UsageError
from llamacli.gguf import GGUFFile
from llamacli.machine import Device, device_memory, ggml_function
from llamacli.system import ENDING
from llamacli.workers.addresses import TIMEOUT, Address

if TYPE_CHECKING:
    from llamacli.workers.greeting import Weights
    from llamacli.workers.relay import Relay

MOST = 12  # devices of workers; llama.cpp has room for 16 with this machine's own


class Signals:
    """Signals while a call into C waits for a worker: Python's handlers run only when it is back.

    given_up says whether to wait no longer: after one that ends the program, or Ctrl-C twice.
    """

    def __init__(self) -> None:
        import socket

        self._noted = bytearray()
        self._stopped = False
        self._reading, self._writing = socket.socketpair()
        self._reading.setblocking(False)
        self._writing.setblocking(False)

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Note signals during the block; in other threads than the main one none is seen."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self._read()
        self._noted.clear()
        before = signal.set_wakeup_fd(self._writing.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)

    def stop(self) -> None:
        self._stopped = True

    def given_up(self) -> bool:
        """To be asked by another thread."""
        self._read()
        ending = any(number in ENDING for number in self._noted)
        return self._stopped or ending or self._noted.count(signal.SIGINT) > 1

    def close(self) -> None:
        self._reading.close()
        self._writing.close()

    def _read(self) -> None:
        with suppress(OSError):  # none came, or it is closed
            self._noted += self._reading.recv(64)


class Workers:
    """devices are what they lend, in the order of their addresses. None at all is fine, too."""

    def __init__(self) -> None:
        self.relays: list[Relay] = []
        self.devices: list[Device] = []
        self._signals: Signals | None = None
        self._weights: Weights | None = None
        self._guest = False  # of another engine's connections

    @classmethod
    def of(
        cls,
        addresses: Sequence[Address],
        file: GGUFFile,
        timeout: float = TIMEOUT,
        shared: "Workers | None" = None,
    ) -> Self:
        """Connected for a file's weights; shared are those of an engine that stays until this one
        has gone, whose connections serve both: a worker takes one client at a time.

        Raises UnreachableError where one isn't there, or isn't as it should be.
        """
        workers = cls()
        if addresses:
            try:
                if shared is None:
                    workers._connect(addresses, file, timeout)
                else:
                    workers._join(shared)
                workers._add(file)
                workers.check()
            except BaseException:
                workers.close()
                raise
        return workers

    def _connect(self, addresses: Sequence[Address], file: GGUFFile, timeout: float) -> None:
        from llamacli.workers.greeting import greet, hash_for  # sockets: 5 ms that few need
        from llamacli.workers.relay import Relay

        self._signals = Signals()
        for address in addresses:
            link = greet(address)
            try:
                hashed = hash_for(link, file)
            except OSError as error:
                link.close()
                raise UnreachableError(f"the worker {address} is lost: {error}") from error
            relay = Relay(link, timeout, hashed, self._given_up)
            self.relays.append(relay)
            self.devices += _devices(relay)
        if len(self.devices) > MOST:
            raise UsageError(
                f"the workers have {len(self.devices)} devices, llama.cpp has room for {MOST}"
            )

    def _join(self, other: "Workers") -> None:
        self._guest, self._signals, self.relays = True, other._signals, other.relays
        with self.watched():
            for device in other.devices:
                free, total = device_memory(device.pointer)
                self.devices.append(replace(device, free=free, total=total))

    def _add(self, file: GGUFFile) -> None:
        from llamacli.workers.greeting import Weights

        self._weights = Weights(file)
        for relay in self.relays:
            relay.weights.append(self._weights)

    def check(self) -> None:
        """Raises UnreachableError where one is lost: what llama.cpp gave since is worth nothing."""
        for relay in self.relays:
            if relay.lost is not None:
                raise UnreachableError(
                    f"the worker {relay.link.address} is lost: {relay.lost}",
                    hint="start it again, and ask again",
                )

    def greet(self) -> None:
        """Look whether all are there, by connections of their own. Raises UnreachableError."""
        from llamacli.workers.greeting import greet

        for relay in self.relays:
            greet(relay.link.address).close()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """What llama.cpp does here counts only where no worker was lost over it."""
        if self._signals is None:
            yield
            return
        try:
            with self._signals.noted():
                yield
        except LlamacliError:
            self.check()
            raise
        self.check()

    def give_up(self) -> None:
        """Wait for no worker any more: who does gets its error soon."""
        if self._signals is not None:
            self._signals.stop()

    def close(self) -> None:
        """To be called when llama.cpp has freed what it had there."""
        if self._guest:
            for relay in self.relays:
                if self._weights in relay.weights:
                    relay.weights.remove(self._weights)
            return
        for relay in self.relays:
            relay.close()
        if self._signals is not None:
            self._signals.close()

    def _given_up(self) -> bool:
        return self._signals is not None and self._signals.given_up()


def _devices(relay: "Relay") -> Iterator[Device]:
    """The worker's devices as llama.cpp knows them, which connects for that."""
    handle = ctypes.c_void_p
    add = ggml_function("ggml_backend_rpc_add_server", handle, ctypes.c_char_p)
    get = ggml_function("ggml_backend_reg_dev_get", handle, handle, ctypes.c_size_t)
    registry = add(relay.endpoint.encode())
    machine, several = str(relay.link.address), len(relay.link.devices) > 1
    for number, lent in enumerate(relay.link.devices):
        yield Device(
            name=f"{machine}#{number}" if several else machine,
            description=f"worker {machine}",
            kind="rpc",
            role="gpu",
            free=lent.free,
            total=lent.total,
            pointer=get(registry, number),
            machine=machine,
        )
