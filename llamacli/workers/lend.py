"""The process that lends devices: llama.cpp's RPC server, in a call that never comes back.

It is started by hosting, and ends when that does. A message that llama.cpp can't take ends this
process and no other.
"""

import ctypes
import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from typing import Any

from llamacli import machine
from llamacli.errors import LlamacliError

FAILED = 9  # the exit code where the port can't be had

# What the process does; it is given where to import from, and lend's arguments.
CODE = """
import json, sys
sys.path[:], arguments = json.loads(sys.argv[1])
from llamacli.workers.lend import lend
lend(**arguments)
"""


def command(**arguments: Any) -> list[str]:
    """The command line of a process that lends."""
    return [sys.executable, "-I", "-c", CODE, json.dumps([sys.path, arguments])]


def lent_devices(kind: str) -> list[machine.Device]:
    """The GPUs of that kind, for cpu the processor; auto has the GPUs where there are any.

    Raises UsageError where the build knows no such device.
    """
    devices = machine.find_devices()
    return machine.use_devices(devices, kind) or [one for one in devices if one.role == "cpu"][:1]


def lendable(device: machine.Device, limit: int | None) -> tuple[int, int]:
    """(free, total) bytes as they are told of, limit at most; a processor's are what is free now.

    llama.cpp tells of all of a machine's memory as free.
    """
    free, total = device.free, device.total
    if device.role == "cpu":
        free = min(machine.free_memory().resident, total)
    return (free, total) if limit is None else (min(free, limit), min(total, limit))


def lend(host: str, port: int, kind: str, memory: int | None, threads: int, cache: str) -> None:
    """Serve until the process is killed, or stdin ends; exit FAILED where it can't listen."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to hosting, too
    end_with_stdin()
    machine.load_library()
    devices = lent_devices(kind)
    held = [_tell_memory(device, memory) for device in devices]
    text, size, handle = ctypes.c_char_p, ctypes.c_size_t, ctypes.c_void_p
    start = machine.ggml_function(
        "ggml_backend_rpc_start_server", None, text, text, size, size, ctypes.POINTER(handle)
    )
    pointers = (handle * len(devices))(*(device.pointer for device in devices))
    endpoint, folder = f"{host}:{port}".encode(), os.fsencode(cache) or None
    start(endpoint, folder, threads, len(devices), pointers)
    del held
    sys.exit(FAILED)


def _tell_memory(device: machine.Device, limit: int | None) -> Any:
    """Have llama.cpp tell of what is lendable; gives what must be kept while it does.

    A device's third function is the one that tells of its memory (ggml_backend_device_i). Raises
    LlamacliError where this llama.cpp has it elsewhere.
    """
    size = ctypes.POINTER(ctypes.c_size_t)

    def fill(_: int, free: Any, total: Any) -> None:
        free[0], total[0] = lendable(device, limit)

    tell = ctypes.CFUNCTYPE(None, ctypes.c_void_p, size, size)(fill)
    assert device.pointer is not None
    functions = (ctypes.c_void_p * 3).from_address(device.pointer)
    functions[2] = ctypes.cast(tell, ctypes.c_void_p).value
    if machine.device_memory(device.pointer)[1] != lendable(device, limit)[1]:
        raise LlamacliError("this llama.cpp tells of its memory otherwise than llamacli knows")
    return tell


def end_with_stdin() -> None:
    """Have the process end when its stdin does: whoever started it has gone."""

    def wait() -> None:
        sys.stdin.buffer.read()
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


def described(devices: Sequence[machine.Device], limit: int | None) -> str:
    """What is lent, for people."""
    parts = []
    for device in devices:
        free = lendable(device, limit)[0] / (1 << 30)
        parts.append(f"{device.name} ({device.description}, {free:.1f} GiB free)")
    return ", ".join(parts)
