"""A model in llama.cpp's memory: its file checked, its settings settled, its weights loaded."""

import contextlib
import ctypes
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypedDict

from convert import deferred_signals
from llamacli import gguf, machine
from llamacli.engine.adapters import LoadedAdapter, Scales, load_adapters, read_adapters
from llamacli.engine.fit import Fitting, known_context
from llamacli.engine.footprint import parts
from llamacli.engine.settings import EngineSettings
from llamacli.errors import DoesNotFitError, InvalidModelError, UsageError
from llamacli.workers import Workers

if TYPE_CHECKING:
    from llamacli.engine.vocabulary import Vocabulary


class Loading(TypedDict, total=False):
    """What LoadedModel takes besides, by the same names."""

    parallel: int | None
    on_load: Callable[[float], None] | None
    meanwhile: Callable[[gguf.GGUFFile], None]
    held: int
    shared: Workers | None


class LoadedModel:
    """The weights, and what they were loaded with.

    identity tells the file that was loaded from others, whatever is at path since. adapters are
    the LoRA adapters loaded with it, scales those that it computes with. library is the low-level
    module llama_cpp.llama_cpp.
    """

    def __init__(
        self,
        path: Path,
        settings: EngineSettings | None = None,
        *,
        parallel: int | None = None,
        on_load: Callable[[float], None] | None = None,
        meanwhile: Callable[[gguf.GGUFFile], None] = lambda _: None,
        held: int = 0,
        shared: Workers | None = None,
    ) -> None:
        """Check the file, and load it; on_load gets the share loaded, 0 to 1.

        meanwhile is done with the checked file, in a thread of its own, while llama.cpp loads.
        held are bytes of this process that must stay in memory, though they look free. parallel is
        how many sequences its context is to have room for beside one. shared are those of a model
        that is closed after this one, where its connections serve both. Raises NotFoundError,
        InvalidModelError, UsageError (a context beyond the model's, a device that isn't there), and
        DoesNotFitError where memory is short.
        """
        self.path = Path(path)
        self.parallel = parallel
        self.file = gguf.read_gguf(self.path)
        self.shape = gguf.check_llama(self.file)
        settings = settings or EngineSettings()
        self._adapter_files = read_adapters(settings.adapters, self.file)
        self.adapters: list[LoadedAdapter] = []
        self.scales: Scales = tuple(choice.scale for choice in settings.adapters)
        self.library = machine.load_library()
        self._processor = machine.this_processor()
        self._others = held
        self._model: Any = None
        timeout = settings.worker_timeout
        self.workers = Workers(settings.workers, self.file, timeout, shared)
        try:
            self._fit(settings)
            with in_background(lambda: meanwhile(self.file)), self.workers.watched():
                self._model = load_model(
                    self.library,
                    self.path,
                    self.settings,
                    on_load,
                    gpus=self.gpus,
                    given_up=lambda: self.lost,
                )
            # The file that was checked is still there: it is what llama.cpp has read.
            self.identity = gguf.file_identity(self.path, self.file.status)
            with self.workers.watched():
                self.adapters = load_adapters(self.library, self._model, self._adapter_files)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the model; may be called twice."""
        model, self._model = self._model, None
        self.adapters, self.scales = [], ()
        with deferred_signals([]):  # llama.cpp logs here, too
            if model is not None:
                self.library.llama_model_free(model)
            self.workers.close()

    def read_vocabulary(self) -> None:
        """3 ms, which may pass while a context is made."""
        self.vocabulary = _vocabulary(self.library, self._model, self.file)

    @property
    def name(self) -> str:
        """The model's own name, else its file's."""
        return str(self.file.metadata.get("general.name") or self.path.stem)

    @property
    def quantization(self) -> str:
        """The file type in llama.cpp's words without its remarks, as Q4_K_M or BF16."""
        return self.file.quantization

    @property
    def closed(self) -> bool:
        return self._model is None

    @property
    def lost(self) -> bool:
        """Whether a worker is lost: nothing is to be had of this engine any more."""
        return any(relay.lost is not None for relay in self.workers.relays)

    def most_tokens(self, prompt: int, asked: int | None = None) -> int:
        """How many tokens can follow a prompt of so many: the last of them takes no cell.

        Raises DoesNotFitError where the prompt is too long, UsageError where it has no tokens or
        none is asked for.
        """
        if prompt < 1:
            raise UsageError("there is nothing to evaluate: the prompt has no tokens")
        if prompt > self.context_size:
            raise DoesNotFitError(
                f"the prompt has {prompt} tokens, the context {self.context_size}",
                hint="raise the context with -c, or shorten the text",
            )
        if asked is not None and asked < 1:
            raise UsageError(f"at most {asked} tokens were asked for; give 1 or more")
        room = self.context_size - prompt + 1
        return room if asked is None else min(room, asked)

    def _fit(self, settings: EngineSettings) -> None:
        """Settle what settings leave open, by the devices and the memory that is free."""
        self.gpus = [
            *self.workers.devices,
            *machine.use_devices(machine.find_devices(), settings.device),
        ]
        free = machine.free_memory()
        free = replace(free, resident=max(free.resident - self._others, 0))
        here = self._processor, self.gpus, free
        fitting = Fitting(self.file, self.shape, *here, self.parallel, self._adapter_files)
        self.settings = fitting.fit(settings)
        if not self.settings.gpu_layers:
            self.gpus = []
        self.context_size = known_context(self.settings.context)


def load_model(
    library: Any,
    path: Path,
    settings: EngineSettings,
    on_load: Callable[[float], None] | None = None,
    *,
    gpus: Sequence[machine.Device] = (),
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
        kind = DoesNotFitError if "alloc" in machine.logged_reason() else InvalidModelError
        raise kind(f"llama.cpp could not load {path}{machine.logged_reason()}")
    return model


def _vocabulary(library: Any, model: Any, file: gguf.GGUFFile) -> "Vocabulary":
    from llamacli.engine.vocabulary import make_vocabulary  # imported while a model loads

    return make_vocabulary(library, model, file)


def load_vocabulary(path: Path) -> "Vocabulary":
    """The vocabulary alone of a GGUF file, whose weights aren't touched; freed with the object."""
    return load_file(path)[1]


def load_file(path: Path) -> "tuple[gguf.GGUFFile, Vocabulary]":
    """A checked GGUF file, and its vocabulary as load_vocabulary gives it."""
    file = gguf.read_gguf(path)
    gguf.check_architecture(file)
    gguf.check_vocabulary(file)
    library = machine.load_library()
    model = load_model(library, path, EngineSettings(), vocabulary_only=True)
    gguf.file_identity(path, file.status)
    vocabulary = _vocabulary(library, model, file)
    freeing = weakref.finalize(vocabulary, _free, library, model)
    freeing.atexit = False
    return file, vocabulary


def _free(library: Any, model: Any) -> None:
    with deferred_signals([]):  # llama.cpp logs here, too
        library.llama_model_free(model)


@contextlib.contextmanager
def in_background(work: Callable[[], None]) -> Iterator[None]:
    """Do work in a thread beside a long call into C, and wait for it.

    What it raises is raised at the end, where the block itself went well.
    """
    raised: list[BaseException] = []

    def do() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=do)
    thread.start()
    try:
        yield
    finally:
        thread.join()
    if raised:
        raise raised[0]
