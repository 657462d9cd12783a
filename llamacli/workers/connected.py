"""The workers of one engine: connected, relayed, and known to llama.cpp as devices."""

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from llamacli.errors import LlamacliError, UnreachableError, UsageError
from llamacli.gguf import GGUFFile
from llamacli.machine import Device, ggml_function
from llamacli.workers.addresses import TIMEOUT, Address

if TYPE_CHECKING:
    from llamacli.workers.relay import Length, Look, Relay
    from llamacli.workers.waiting import Signals

MOST = 12  # devices of workers; llama.cpp has room for 16 with this machine's own


class Workers:
    """devices are what they lend, in the order of their addresses. None at all is fine, too."""

    def __init__(
        self, addresses: Sequence[Address], file: GGUFFile, timeout: float = TIMEOUT
    ) -> None:
        """Raises UnreachableError where one isn't there, or isn't as it should be."""
        self.relays: list[Relay] = []
        self.devices: list[Device] = []
        self._signals: Signals | None = None
        if addresses:
            self._connect(addresses, file, timeout)

    def _connect(self, addresses: Sequence[Address], file: GGUFFile, timeout: float) -> None:
        from llamacli.workers.greeting import greet  # sockets: 5 ms that few need
        from llamacli.workers.relay import Relay
        from llamacli.workers.waiting import Signals

        self._signals = Signals()
        length, look = _of_file(file)
        try:
            for address in addresses:
                relay = Relay(greet(address), timeout, length, look, self._given_up)
                self.relays.append(relay)
                self.devices += _devices(relay)
            if len(self.devices) > MOST:
                raise UsageError(
                    f"the workers have {len(self.devices)} devices, llama.cpp has room for {MOST}"
                )
            self.check()
        except BaseException:
            self.close()
            raise

    @property
    def lost(self) -> bool:
        return any(relay.lost is not None for relay in self.relays)

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


def _of_file(file: GGUFFile) -> "tuple[Length, Look]":
    """How many bytes a tensor of the file has, and what some of them are."""
    known = {tensor.name: tensor for tensor in file.tensors}

    def length(name: str) -> int | None:
        return known[name].nbytes if name in known else None

    def look(name: str, offset: int, nbytes: int) -> bytes:
        with Path(file.path).open("rb") as source:
            source.seek(known[name].offset + offset)
            return source.read(nbytes)

    return length, look
