"""Loading models into llama.cpp, and what a long call into C needs around it."""

import contextlib
import ctypes
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from convert import deferred_signals
from llamacli.engine.footprint import parts
from llamacli.engine.settings import EngineSettings
from llamacli.engine.vocabulary import Vocabulary, make_vocabulary
from llamacli.errors import DoesNotFitError, InvalidModelError
from llamacli.gguf import (
    GGUFFile,
    check_architecture,
    check_vocabulary,
    file_identity,
    read_gguf,
    recall,
    remember,
)
from llamacli.machine import Device, last_error, load_library


def load_model(
    library: Any,
    path: Path,
    settings: EngineSettings,
    on_load: Callable[[float], None] | None = None,
    *,
    gpus: Sequence[Device] = (),
    given_up: Callable[[], bool] = lambda: False,
    vocabulary_only: bool = False,
) -> Any:
    """llama.cpp's model from a checked file, its layers on those GPUs as far as settings say.

    given_up is asked while it loads, and ends that.
    Raises InvalidModelError or DoesNotFitError.
    """
    signals: list[int] = []

    def progress(share: float, _: Any) -> bool:
        if on_load is not None:
            on_load(share)
        return not (signals or given_up())

    callback = library.llama_progress_callback(progress)
    params = library.llama_model_default_params()
    params.progress_callback = callback
    params.n_gpu_layers = -1 if settings.gpu_layers == "auto" else settings.gpu_layers
    # A list that ends with NULL; an empty one keeps all on the CPU, large batches too.
    listed = (ctypes.c_void_p * (len(gpus) + 1))(*(gpu.pointer for gpu in gpus))
    params.devices = ctypes.cast(listed, ctypes.c_void_p)
    split = (ctypes.c_float * library.llama_max_devices())(*parts(gpus, settings.split))
    if any(gpu.machine for gpu in gpus):  # else llama.cpp asks the GPUs what is free
        params.tensor_split = ctypes.cast(split, ctypes.POINTER(ctypes.c_float))
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
        raise kind(f"llama.cpp could not load {path}{logged_reason()}")
    return model


def load_vocabulary(path: Path) -> Vocabulary:
    """The vocabulary alone of a GGUF file, whose weights aren't touched; freed with the object."""
    return load_file(path)[1]


def load_file(path: Path) -> tuple[GGUFFile, Vocabulary]:
    """A checked GGUF file, and its vocabulary as load_vocabulary gives it."""
    file = read_gguf(path, recall())
    check_architecture(file)
    check_vocabulary(file)
    library = load_library()
    with in_background(lambda: remember(file)):
        model = load_model(library, path, EngineSettings(), vocabulary_only=True)
    file_identity(path, file.status)
    vocabulary = make_vocabulary(library, model, file)
    freeing = weakref.finalize(vocabulary, _free, library, model)
    freeing.atexit = False
    return file, vocabulary


def _free(library: Any, model: Any) -> None:
    with deferred_signals([]):  # llama.cpp logs here, too
        library.llama_model_free(model)


@contextlib.contextmanager
def in_background(*work: Callable[[], None]) -> Iterator[None]:
    """Do work, one after another, in a thread beside a long call into C, and wait for it.

    What it raises is raised at the end, where the block itself went well.
    """
    raised: list[BaseException] = []

    def do_all() -> None:
        try:
            for one in work:
                one()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=do_all)
    thread.start()
    try:
        yield
    finally:
        thread.join()
    if raised:
        raise raised[0]


def logged_reason() -> str:
    """llama.cpp's last error, to be put behind a message of ours."""
    reason = last_error()
    return f": {reason}" if reason else ""
