"""Loading models into llama.cpp: the settings, and what a long call into C needs around it."""

import contextlib
import ctypes
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llamacli.engine.vocabulary import Vocabulary, make_vocabulary
from llamacli.errors import DoesNotFitError, InvalidModelError, UsageError
from llamacli.gguf.check import check_architecture, check_vocabulary
from llamacli.gguf.file import GGUFFile, read_gguf
from llamacli.gguf.known import recall, remember
from llamacli.machine.devices import KINDS, Device
from llamacli.machine.native import last_error, load_library

MAX_THREADS = 512  # ggml's GGML_MAX_N_THREADS
MAX_BATCH = 1 << 16

FLASH_ATTENTION = {"auto": -1, "off": 0, "on": 1}
KV_TYPES = {"f16": 1, "q8_0": 8, "q4_0": 2}  # ggml's type numbers


@dataclass(frozen=True)
class EngineSettings:
    """How a model is run. None leaves the choice to the model or the machine.

    context and batch sizes are in tokens; "auto" is the largest context, and the most layers on
    a GPU, that fit. device is a kind, or auto. repack lets llama.cpp rearrange weights in memory
    for its fastest kernels; overcommit loads a model that seems not to fit. outputs is of how
    many tokens of a micro-batch there are logits; 1 serves to generate.
    """

    context: int | Literal["auto"] | None = None
    threads: int | None = None
    threads_batch: int | None = None
    device: str = "auto"
    gpu_layers: int | Literal["auto"] = "auto"
    flash_attention: str = "auto"
    batch: int = 512
    ubatch: int = 512
    kv_type: str = "f16"
    repack: bool = True
    mmap: bool = True
    overcommit: bool = False
    outputs: int = 1

    def __post_init__(self) -> None:
        limits = {"threads": MAX_THREADS, "threads_batch": MAX_THREADS, "context": 1 << 31}
        for name, most in {**limits, "batch": MAX_BATCH, "ubatch": MAX_BATCH}.items():
            value = getattr(self, name)
            if value not in (None, "auto") and not 1 <= value <= most:
                raise UsageError(f"{name} is {value}; give 1 to {most}")
        if self.gpu_layers != "auto" and self.gpu_layers < 0:
            raise UsageError(f"gpu_layers is {self.gpu_layers}; give a number or auto")
        if self.device not in KINDS:
            raise UsageError(f"the device is one of {', '.join(KINDS)}, not {self.device!r}")
        if self.flash_attention not in FLASH_ATTENTION:
            raise UsageError(f"flash attention is auto, on or off, not {self.flash_attention!r}")
        if self.kv_type not in KV_TYPES:
            raise UsageError(f"the KV cache is {', '.join(KV_TYPES)}, not {self.kv_type!r}")
        if self.kv_type != "f16" and self.flash_attention == "off":
            raise UsageError(f"a KV cache of {self.kv_type} takes flash attention, which is off")


def load_model(
    library: Any,
    path: Path,
    settings: EngineSettings,
    on_load: Callable[[float], None] | None = None,
    *,
    gpus: Sequence[Device] = (),
    vocabulary_only: bool = False,
) -> Any:
    """llama.cpp's model from a checked file, its layers on those GPUs as far as settings say.

    Raises InvalidModelError or DoesNotFitError.
    """
    signals: list[int] = []

    def progress(share: float, _: Any) -> bool:
        if on_load is not None:
            on_load(share)
        return not signals

    callback = library.llama_progress_callback(progress)
    params = library.llama_model_default_params()
    params.progress_callback = callback
    params.n_gpu_layers = -1 if settings.gpu_layers == "auto" else settings.gpu_layers
    # A list that ends with NULL; an empty one keeps all on the CPU, large batches too.
    listed = (ctypes.c_void_p * (len(gpus) + 1))(*(gpu.pointer for gpu in gpus))
    params.devices = ctypes.cast(listed, ctypes.c_void_p)
    params.use_extra_bufts = settings.repack
    params.vocab_only = vocabulary_only
    if not settings.mmap:
        params.load_mode = library.LLAMA_LOAD_MODE_NONE
    with deferred_signals(signals):
        model = library.llama_model_load_from_file(os.fsencode(path), params)
    if signals:
        raise KeyboardInterrupt
    if not model:
        short_of_memory = "alloc" in last_error()
        kind = DoesNotFitError if short_of_memory else InvalidModelError
        raise kind(f"llama.cpp could not load {path}{because()}")
    return model


def load_vocabulary(path: Path, *, debug: bool = False) -> Vocabulary:
    """The vocabulary alone of a GGUF file, whose weights aren't touched. It lives to the end."""
    file = read_gguf(path, recall())
    check_architecture(file)
    check_vocabulary(file)
    library = load_library(debug)
    with beside(lambda: remember(file)):
        model = load_model(library, path, EngineSettings(), vocabulary_only=True)
    return make_vocabulary(library, model, file)


def quantization_name(file: GGUFFile) -> str:
    """The name of general.file_type, as Q4_K_M; 'unknown' where the file says none or a new one."""
    kind = file.metadata.get("general.file_type")
    library = load_library()
    for prefix in ("LLAMA_FTYPE_MOSTLY_", "LLAMA_FTYPE_ALL_"):
        for name, value in vars(library).items():
            if name.startswith(prefix) and value == kind:
                return str(name.removeprefix(prefix))
    return "unknown"


@contextlib.contextmanager
def beside(*work: Callable[[], None]) -> Iterator[None]:
    """Do work, one after another, in a thread beside a long call into C, and wait for it."""

    def do_all() -> None:
        for one in work:
            one()

    thread = threading.Thread(target=do_all)
    thread.start()
    try:
        yield
    finally:
        thread.join()


@contextlib.contextmanager
def deferred_signals(arrived: list[int]) -> Iterator[None]:
    """SIGINT and SIGTERM during a long call into C, put into arrived, delivered when it ends.

    llama.cpp calls back into Python now and then, where a handler that raises would be lost.
    Handlers of Python's alone are held back; in other threads than the main one none ever runs.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        if callable(signal.getsignal(number)):
            held[number] = signal.signal(number, lambda caught, _: arrived.append(caught))
    try:
        yield
    finally:
        for number, handler in held.items():
            signal.signal(number, handler)
        for caught in arrived:
            signal.raise_signal(caught)


def because() -> str:
    """llama.cpp's last error, to be put behind a message of ours."""
    reason = last_error()
    return f": {reason}" if reason else ""
