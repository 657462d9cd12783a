"""The workers of one engine: connected, relayed, and known to llama.cpp as devices."""

import ctypes
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from llamacli.errors import LlamacliError, UsageError
from llamacli.gguf import GGUFFile
from llamacli.machine import Device, device_memory, ggml_function
from llamacli.system import ENDING
from llamacli.workers.addresses import Address

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

    def __init__(
        self,
        addresses: Sequence[Address],
        file: GGUFFile,
        timeout: float,
        shared: "Workers | None" = None,
    ) -> None:
        """Connected for a file's weights; shared are those of an engine that stays until this one
        has gone, whose connections serve both: a worker takes one client at a time.

        Raises UnreachableError where one isn't there, or isn't as it should be.
        """
        self.relays: list[Relay] = []
        self.devices: list[Device] = []
        self._signals: Signals | None = None
        self._weights: Weights | None = None
        self._guest = shared is not None
        if not addresses:
            return
        from llamacli.workers import greeting  # sockets: 5 ms that few need

        try:
            if shared is None:
                self._connect(addresses, file, timeout)
            else:
                self._join(shared)
            self._weights = greeting.Weights(file)
            for relay in self.relays:
                relay.weights.append(self._weights)
            self.check()
        except BaseException:
            self.close()
            raise

    def _connect(self, addresses: Sequence[Address], file: GGUFFile, timeout: float) -> None:
        from llamacli.workers.greeting import greet, hash_for
        from llamacli.workers.relay import Relay

        self._signals = Signals()
        for address in addresses:
            link = greet(address)
            try:
                relay = Relay(link, hash_for(link, file))
            except BaseException:
                link.close()
                raise
            link.patience, link.given_up = timeout, self._signals.given_up
            self.relays.append(relay)
            self.devices += _devices(relay)
        if len(self.devices) > MOST:
            raise UsageError(
                f"the workers have {len(self.devices)} devices, llama.cpp has room for {MOST}"
            )

    def _join(self, other: "Workers") -> None:
        self._signals, self.relays = other._signals, other.relays
        with self.watched():
            for device in other.devices:
                free, total = device_memory(device.pointer)
                self.devices.append(replace(device, free=free, total=total))

    def check(self) -> None:
        """Raises UnreachableError where one is lost: what llama.cpp gave since is worth nothing."""
        for relay in self.relays:
            if relay.lost is not None:
                from llamacli.workers.greeting import lost

                raise lost(relay.link.address, relay.lost)

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
