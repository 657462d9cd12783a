"""LoRA adapters beside a loaded model: read and checked, loaded by llama.cpp, and in use or not."""

import os
from collections.abc import Sequence
from ctypes import c_float
from pathlib import Path
from typing import Any, NamedTuple

from convert import deferred_signals
from llamacli import gguf
from llamacli.engine.settings import AdapterChoice
from llamacli.errors import InvalidModelError, UsageError
from llamacli.gguf import GGUFFile, file_identity, read_gguf
from llamacli.machine import logged_reason

MAX_ADAPTERS = 16

Scales = tuple[float, ...]  # one for each loaded adapter; 0 is as if it weren't there


class LoadedAdapter(NamedTuple):
    """identity tells its file from others; pointer is llama.cpp's, freed with the model."""

    path: Path
    identity: list[int | str]
    pointer: Any


def read_adapters(choices: Sequence[AdapterChoice], base: GGUFFile) -> list[GGUFFile]:
    """The files, checked against the base before llama.cpp sees them.

    Raises NotFoundError, InvalidModelError, and UsageError for too many or one that is named twice.
    """
    if len(choices) > MAX_ADAPTERS:
        raise UsageError(f"{len(choices)} adapters are too many; {MAX_ADAPTERS} can be loaded")
    files = [read_gguf(choice.path) for choice in choices]
    for i, file in enumerate(files):
        if file.status in [other.status for other in files[:i]]:
            raise UsageError(f"the adapter {file.path} is named twice")
        gguf.check_adapter(file, base)
    return files


def load_adapters(library: Any, model: Any, files: Sequence[GGUFFile]) -> list[LoadedAdapter]:
    """Load checked files into a model. Raises InvalidModelError where llama.cpp takes one not."""
    loaded = []
    for file in files:
        with deferred_signals([]):  # llama.cpp logs here
            pointer = library.llama_adapter_lora_init(model, os.fsencode(file.path))
        if not pointer:
            raise InvalidModelError(f"llama.cpp could not load {file.path}{logged_reason()}")
        identity = file_identity(file.path, file.status)  # what was checked is still there
        loaded.append(LoadedAdapter(file.path, identity, pointer))
    return loaded


def apply_adapters(
    library: Any, context: Any, loaded: Sequence[LoadedAdapter], scales: Scales
) -> None:
    """Have a context compute with the adapters at these scales."""
    if not loaded:
        return
    pointers = (library.llama_adapter_lora_p_ctypes * len(loaded))(*(a.pointer for a in loaded))
    numbers = (c_float * len(loaded))(*scales)
    with deferred_signals([]):
        library.llama_set_adapters_lora(context, pointers, len(loaded), numbers)


def adapters_key(loaded: Sequence[LoadedAdapter], scales: Scales) -> list[Any]:
    """What a KV cache depends on beside the model; empty where no adapter is in use."""
    pairs = zip(loaded, scales, strict=True)
    return [[*adapter.identity, scale] for adapter, scale in pairs if scale]
