"""How large a model's file may be to run on this machine as it is now."""

from dataclasses import dataclass, replace

from llamacli.engine.fit import DEFAULT_CONTEXT, SPARE, Fitting
from llamacli.engine.settings import EngineSettings, defaults
from llamacli.errors import DoesNotFitError, UsageError
from llamacli.gguf import GGUFFile, LlamaShape
from llamacli.machine import find_devices, free_memory, this_processor, use_devices

STEP = 1 << 20  # bytes; no finer


@dataclass(frozen=True)
class LargestFile:
    """Bytes, and the tokens of context that there is room for beside it."""

    nbytes: int
    context: int


def largest_file(file: GGUFFile, shape: LlamaShape, context: int | None = None) -> LargestFile:
    """The largest file of this model, in any quantization, that what is free holds with a context.

    On GPUs where there are some, all layers of it. A little is left to others. The file given is
    any of the model. Raises UsageError for a context beyond the model's, DoesNotFitError where
    even the context doesn't fit.
    """
    if context is not None and context > shape.context:
        raise UsageError(f"the model knows {shape.context} tokens of context, not {context}")
    tokens = context or min(shape.context, DEFAULT_CONTEXT)
    processor = this_processor()
    gpus = use_devices(find_devices(), "auto")
    chosen = {**defaults(processor, "long"), "repack": False, "context": tokens}
    settings = EngineSettings(**chosen, gpu_layers=shape.blocks + 1 if gpus else 0)
    fitting = Fitting(file, shape, processor, gpus, free_memory())

    def fits(nbytes: int) -> bool:
        return replace(fitting, file=_scaled(file, nbytes)).fits(settings, SPARE)

    low, high = 0, 4 * file.weights_nbytes
    while high - low > STEP:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    if not low:
        raise DoesNotFitError(f"the memory that is free doesn't hold {tokens} tokens of context")
    return LargestFile(low, tokens)


def _scaled(file: GGUFFile, nbytes: int) -> GGUFFile:
    """The file as if its tensors took as many bytes together."""
    share = nbytes / file.weights_nbytes
    tensors = tuple(replace(one, nbytes=int(one.nbytes * share)) for one in file.tensors)
    return replace(file, tensors=tensors, size=file.data_offset + nbytes)
