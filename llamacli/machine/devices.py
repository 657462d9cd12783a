"""The devices that llama.cpp sees, which of them a model uses, and what a GPU without a build asks.

What a machine has is read apart from what is concluded of it, so that a list of devices from
another machine, recorded, gives the same conclusions here.
"""

import ctypes
import importlib.util
import platform
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from llamacli import system
from llamacli.errors import UsageError
from llamacli.machine.native import ggml_function

# The kinds that --device takes, by the names of ggml's backends; see engine/settings.
BACKENDS = {"CPU": "cpu", "MTL": "metal", "CUDA": "cuda", "ROCm": "cuda", "Vulkan": "vulkan"}
TITLES = {"metal": "Metal", "cuda": "CUDA", "vulkan": "Vulkan"}

Role = Literal["cpu", "gpu", "integrated", "accelerator", "other"]
ROLES: tuple[Role, ...] = ("cpu", "gpu", "integrated", "accelerator")  # ggml_backend_dev_type


@dataclass(frozen=True)
class Device:
    """One device of ggml; free and total are bytes of its memory, 0 where it tells none.

    kind is what --device takes, or the backend's name in small letters. pointer is ggml's, for
    this process alone. machine is the address of the worker that lends it, empty for this one.
    """

    name: str
    description: str
    kind: str
    role: Role
    free: int
    total: int
    pointer: int | None = field(default=None, compare=False)
    machine: str = ""

    @property
    def shares_memory(self) -> bool:
        """Whether its memory is the host's."""
        return self.kind == "metal" or self.role == "integrated"


@dataclass(frozen=True)
class Machine:
    """What a machine has, whether llama.cpp was built for it or not, and how llamacli got there."""

    apple_silicon: bool = False
    nvidia: bool = False
    renderer: bool = False  # a GPU that draws, of whatever make
    checkout: Path | None = None  # the source tree whose Makefile installed llamacli
    pip: bool = True
    windows: bool = False


def find_devices() -> list[Device]:
    """Every device that ggml registered, in its order: the one llama.cpp prefers comes first."""
    count = ggml_function("ggml_backend_dev_count", ctypes.c_size_t)
    get = ggml_function("ggml_backend_dev_get", ctypes.c_void_p, ctypes.c_size_t)
    return [_describe(get(i)) for i in range(count())]


def use_devices(devices: Sequence[Device], wanted: str) -> list[Device]:
    """The GPUs that hold layers where --device says wanted; none for the CPU.

    auto takes what llama.cpp would: discrete GPUs, or else integrated ones of one kind. Raises
    UsageError where there is no such kind, or the build knows no such device.
    """
    if wanted == "cpu":
        return []
    if wanted not in ("auto", *TITLES):
        kinds = ", ".join(("auto", "cpu", *TITLES))
        raise UsageError(f"the device is one of {kinds}, not {wanted!r}")
    fitting = [device for device in devices if wanted in ("auto", device.kind)]
    discrete = [device for device in fitting if device.role == "gpu"]
    integrated = [device for device in fitting if device.role == "integrated"]
    chosen = discrete or [device for device in integrated if device.kind == integrated[0].kind]
    if not chosen and wanted != "auto":
        raise UsageError(
            f"llama.cpp was built without {TITLES[wanted]} or sees no such device; "
            f"to build it: {rebuild_command(wanted, this_machine())}"
        )
    first = chosen[0].kind if chosen else ""
    return [device for device in chosen if device.kind == first]


def unused_hardware(devices: Sequence[Device], machine: Machine) -> list[tuple[str, str]]:
    """(what is there and not used, the command that rebuilds llama.cpp for it)."""
    kinds = {device.kind for device in devices}
    hardware = []
    if machine.apple_silicon and "metal" not in kinds:
        hardware.append(("an Apple GPU", "metal"))
    if machine.nvidia and "cuda" not in kinds:
        hardware.append(("an NVIDIA GPU", "cuda"))
    elif machine.renderer and not machine.apple_silicon and not kinds & {"cuda", "vulkan"}:
        hardware.append(("a GPU", "vulkan"))
    return [
        (f"{what} is here, and llama.cpp was built without {TITLES[kind]} or doesn't see it",
         rebuild_command(kind, machine))
        for what, kind in hardware
    ]  # fmt: skip


def rebuild_command(kind: str, machine: Machine) -> str:
    """The command that compiles llama.cpp for a kind of GPU and installs it, for the system's
    shell: PowerShell on Windows."""
    if machine.checkout is not None:
        folder = shlex.quote(str(machine.checkout))
        return f"make -C {folder} install ACCEL={kind}"
    from importlib.metadata import version

    package = f"llama-cpp-python=={version('llama-cpp-python')}"
    flags = f'CMAKE_ARGS="-DGGML_RPC=on -DGGML_{kind.upper()}=on"'
    python = shlex.quote(sys.executable)
    if machine.windows:
        python = "'" + sys.executable.replace("'", "''") + "'"
        flags = f"$env:{flags};" + " &" * machine.pip
    if machine.pip:
        return (
            f"{flags} {python} -m pip install --force-reinstall --no-deps --no-cache-dir "
            f"--no-binary llama-cpp-python {package}"
        )
    return (
        f"{flags} uv pip install --python {python} --reinstall-package llama-cpp-python "
        f"--no-cache --no-binary llama-cpp-python {package}"
    )


def this_machine() -> Machine:
    """Looked up in the system's folders; no driver is started."""
    source = Path(__file__).resolve().parents[2]
    made = (source / "Makefile").is_file() and Path(sys.prefix) == source / ".venv"
    made = made and not system.WINDOWS  # the README's lines made it, without make
    return Machine(
        apple_silicon=system.MACOS and platform.machine() == "arm64",
        nvidia=_has_nvidia(),
        renderer=any(Path("/dev/dri").glob("renderD*")),
        checkout=source if made else None,
        pip=importlib.util.find_spec("pip") is not None,
        windows=system.WINDOWS,
    )


def _has_nvidia() -> bool:
    """By the driver's folder; on Windows, and Linux within it, by the driver's program."""
    if system.WINDOWS or Path("/dev/dxg").exists():
        return shutil.which("nvidia-smi") is not None
    return any(Path("/proc/driver/nvidia/gpus").glob("*"))


def device_memory(pointer: int | None) -> tuple[int, int]:
    """(free, total) bytes of a device, as ggml tells of them now."""
    size = ctypes.POINTER(ctypes.c_size_t)
    ask = ggml_function("ggml_backend_dev_memory", None, ctypes.c_void_p, size, size)
    free, total = ctypes.c_size_t(0), ctypes.c_size_t(0)
    ask(pointer, ctypes.byref(free), ctypes.byref(total))
    return free.value, total.value


def _describe(pointer: int) -> Device:
    text, handle = ctypes.c_char_p, ctypes.c_void_p
    free, total = device_memory(pointer)
    role = ggml_function("ggml_backend_dev_type", ctypes.c_int, handle)(pointer)
    backend = ggml_function("ggml_backend_dev_backend_reg", handle, handle)(pointer)
    name = ggml_function("ggml_backend_reg_name", text, handle)(backend).decode(errors="replace")

    def told(function: str) -> str:
        value: bytes = ggml_function(function, text, handle)(pointer)
        return value.decode(errors="replace").strip()

    return Device(
        name=told("ggml_backend_dev_name"),
        description=told("ggml_backend_dev_description"),
        kind=BACKENDS.get(name, name.lower()),
        role=ROLES[role] if 0 <= role < len(ROLES) else "other",
        free=free,
        total=total,
        pointer=pointer,
    )
