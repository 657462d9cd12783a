"""Whether a model fits before a byte of it is loaded, what would make it fit, and how large a file
of it may be."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from llamacli import machine
from llamacli.engine.context import PADDING, plan_context
from llamacli.engine.footprint import Footprint, Share, as_q4_k_m, footprint, kv_nbytes, scaled
from llamacli.engine.settings import EngineSettings, defaults, kv_types
from llamacli.errors import DoesNotFitError, UsageError
from llamacli.gguf import GGUFFile, LlamaShape

# Without -c a context takes at most this many tokens: 1 GiB of F16 KV cache for an 8B model,
# where the 131,072 that Llama 3.1 was trained for would take 16.
DEFAULT_CONTEXT = 8192
LEAST_CONTEXT = 512  # tokens that are worth to be offered
SPARE = 0.05  # of the free memory, which -c auto leaves to others
ROOM = 0.25  # of it stays free where attention takes more memory to be faster
GIB = 1 << 30
STEP = 1 << 20  # bytes of the largest file; no finer


@dataclass(frozen=True)
class Fitting:
    """A model, LoRA adapters' files, and what they may take; gpus may hold layers."""

    file: GGUFFile
    shape: LlamaShape
    processor: machine.Processor
    gpus: Sequence[machine.Device]
    free: machine.FreeMemory
    parallel: int | None = None
    adapters: Sequence[GGUFFile] = ()

    def fit(self, settings: EngineSettings) -> EngineSettings:
        """The settings with numbers for context and GPU layers.

        Weights are not repacked where only so they fit. Raises UsageError for a context beyond
        the model's, a KV type its heads can't have or layers for a GPU that isn't there, and
        DoesNotFitError that says what is short and what would fit, what costs least first.
        """
        self._check(settings)
        chosen = self._resolved(settings)
        if settings.context == "auto":
            chosen = replace(chosen, context=self.largest_context(chosen, SPARE))
        if self._takes_products(chosen):
            products = replace(chosen, flash_attention="off")
            if self.parallel is None or self.fits(products):
                return products
        if settings.overcommit or self.fits(chosen):
            return chosen
        if chosen.repack and self.fits(plain := replace(chosen, repack=False)):
            return plain
        raise DoesNotFitError(self._advice(settings, replace(chosen, repack=False)))

    def need(self, settings: EngineSettings) -> Footprint:
        """What settings with a number for the context take."""
        plan = plan_context(known_context(settings.context), settings, self.parallel)
        features = self.processor.features
        threads = replace(settings, threads=settings.threads or self.processor.cores)
        gpus = self.gpus if settings.gpu_layers else ()
        return footprint(self.file, self.shape, threads, plan, features, gpus, self.adapters)

    def fits(self, settings: EngineSettings, spare: float = 0.0) -> bool:
        """Whether they fit everywhere, that share of what is free being left."""
        return not self._short(self.need(settings), 1.0 - spare)

    def largest_context(self, settings: EngineSettings, spare: float = 0.0) -> int:
        """The most tokens that fit, up to the model's; at least a few, which may not."""
        most = self.shape.context

        def tokens(steps: int) -> int:
            return min(max(steps, 1) * PADDING, most)

        steps = _largest(
            -(-most // PADDING),
            lambda steps: self.fits(replace(settings, context=tokens(steps)), spare),
        )
        return tokens(steps)

    def _check(self, settings: EngineSettings) -> None:
        trained, head = self.shape.context, self.shape.head_size
        if isinstance(settings.context, int) and settings.context > trained:
            raise UsageError(
                f"a context of {settings.context} was asked for; the model knows {trained} tokens"
            )
        if not self.gpus and settings.gpu_layers not in ("auto", 0):
            raise UsageError(
                f"{settings.gpu_layers} layers can't go to a GPU: none is used; "
                "`llamacli devices` shows what is there"
            )
        if settings.kv_type not in kv_types(head):
            raise UsageError(
                f"a KV cache of {settings.kv_type} holds 32 values a block, which the {head} "
                "values of this model's attention heads don't fill; leave it at f16"
            )

    def _resolved(self, settings: EngineSettings) -> EngineSettings:
        """With numbers, those for auto by what fits on the GPUs; repacked only as the build can."""
        context = settings.context
        if context is None or context == "auto":
            context = min(self.shape.context, DEFAULT_CONTEXT)
        repack = settings.repack and "REPACK" in self.processor.features
        chosen = replace(settings, context=context, repack=repack)
        if settings.gpu_layers == "auto":
            layers = self._lent_layers(chosen)
            chosen = replace(chosen, gpu_layers=layers)
            if not settings.overcommit and not settings.split:
                chosen = replace(chosen, gpu_layers=min(layers, self.most_layers(chosen)))
        return chosen

    def _takes_products(self, settings: EngineSettings) -> bool:
        """Whether attention is best left to matrix products, whose scores take memory.

        llama.cpp's flash attention on a processor reads a prompt somewhat faster, but makes several
        times the work of a few tokens deep in a context: measured with AVX-512, the figures are in
        docs/performance.md. By what one conversation takes, so that its answer is the same alone
        and beside others.
        """
        here = not settings.gpu_layers and not settings.workers
        if settings.flash_attention != "auto" or settings.kv_type != "f16" or not here:
            return False
        one = replace(self, parallel=None)
        products = replace(settings, flash_attention="off", outputs=1)
        return "AVX512" in self.processor.features and one.fits(products, ROOM)

    def _lent_layers(self, settings: EngineSettings) -> int:
        """How many layers GPUs and workers hold where all has room: with a GPU here all of them,
        else the workers' part."""
        every = self.shape.blocks + 1 if self.gpus else 0
        if not every or any(not gpu.machine for gpu in self.gpus):
            return every
        split = settings.split or (self.free.resident, sum(gpu.free for gpu in self.gpus))
        return every - round(every * split[0] / (sum(split) or 1))

    def most_layers(self, settings: EngineSettings) -> int:
        """The most layers, the output among them, that fit on the GPUs."""
        if not self.gpus:
            return 0

        def fit(count: int) -> bool:
            need = self.need(replace(settings, gpu_layers=count))
            return not any(self._short_gpus(need, 1.0))

        return _largest(self.shape.blocks + 1, fit)

    def _short(self, need: Footprint, share: float) -> list[str]:
        """What is short, in words, each with its numbers."""
        host, free = need.host, self.free
        short = list(self._short_gpus(need, share))
        if host.total > free.resident * share:
            short.append(f"{_sizes(host)}; {_size(free.resident)} {free.limit} is free")
        if free.address_space is not None and need.address_space > free.address_space:
            space = _size(need.address_space), _size(free.address_space)
            short.append(f"{space[0]} of address space; `ulimit -v` leaves {space[1]}")
        return short

    def _short_gpus(self, need: Footprint, share: float) -> Iterator[str]:
        for gpu, part in zip(self.gpus, need.gpus, strict=False):  # none without layers
            used = part.total if part.weights or part.kv else 0
            if gpu.total and used > gpu.free * share:
                yield f"on {gpu.name} {_sizes(part)}; {_size(gpu.free)} is free there"

    def _advice(self, asked: EngineSettings, settings: EngineSettings) -> str:
        short = self._short(self.need(settings), 1.0)
        at = f"with a context of {settings.context} tokens it takes {', and '.join(short)}"
        changes = list(self._changes(asked, settings))[:3]
        if not changes:
            return f"{self.file.path.name} doesn't fit: {at}; free memory, or take a smaller model"
        return f"{self.file.path.name} doesn't fit: {at}; what would fit: {', or '.join(changes)}"

    def _changes(self, asked: EngineSettings, settings: EngineSettings) -> Iterator[str]:
        """Changes that make it fit, what costs least first.

        Fewer layers on a GPU cost time; a smaller context that wasn't asked for, nothing yet;
        a Q8_0 KV cache, next to no quality; a Q4_0 one, some; other weights, a conversion.
        """
        if isinstance(asked.gpu_layers, int) and self.gpus:
            layers = self.most_layers(settings)
            if layers < asked.gpu_layers and self.fits(replace(settings, gpu_layers=layers)):
                yield f"--gpu-layers {layers}"
        context = self._smaller_context(settings)
        small = {kind: self._with_cache(kind, settings) for kind in ("q8_0", "q4_0")}
        eight, four = (
            [f"--kv-type {kind}"] if held and self.fits(held) else []
            for kind, held in small.items()
        )
        yield from context + eight if asked.context is None else eight + context
        yield from four
        for kind, held in small.items():
            if held and not context:
                yield from (f"--kv-type {kind} {change}" for change in self._smaller_context(held))
        packed = as_q4_k_m(self.file)
        if packed.weights_nbytes <= 0.9 * self.file.weights_nbytes:
            other = replace(self, file=packed)
            smaller = [f" with {change}" for change in other._smaller_context(settings)]
            for ending in [""] if other.fits(settings) else smaller:
                yield f"the same model as Q4_K_M (llamacli convert --q4){ending}"

    def _smaller_context(self, settings: EngineSettings) -> list[str]:
        """One that leaves some of what is free where it can, so that it fits a moment later too."""
        for spare in (SPARE, 0.0):
            context = self.largest_context(settings, spare)
            least = min(LEAST_CONTEXT, self.shape.context)
            worth = least <= context < known_context(settings.context)
            if worth and self.fits(replace(settings, context=context), spare):
                return [f"-c {context}"]
        return []

    def _with_cache(self, kind: str, settings: EngineSettings) -> EngineSettings | None:
        """The settings with that KV type where it is smaller, and the model and they allow it."""
        sizes = {name: kv_nbytes(self.shape, name, PADDING) for name in (kind, settings.kv_type)}
        smaller = sizes[kind] < sizes[settings.kv_type]
        allowed = kind in kv_types(self.shape.head_size) and settings.flash_attention != "off"
        return replace(settings, kv_type=kind) if smaller and allowed else None


def largest_file(file: GGUFFile, shape: LlamaShape, context: int | None = None) -> tuple[int, int]:
    """(bytes, tokens): the largest file of this model, in any quantization, that what is free holds
    with a context of so many tokens.

    On GPUs where there are some, all layers of it. A little is left to others. The file given is
    any of the model. Raises UsageError for a context beyond the model's, DoesNotFitError where
    even the context doesn't fit.
    """
    tokens = context or min(shape.context, DEFAULT_CONTEXT)
    processor = machine.this_processor()
    gpus = machine.use_devices(machine.find_devices(), "auto")
    chosen = {**defaults(processor, "long"), "repack": False, "context": tokens}
    settings = EngineSettings(**chosen, gpu_layers=shape.blocks + 1 if gpus else 0)
    fitting = Fitting(file, shape, processor, gpus, machine.free_memory())
    fitting._check(settings)

    def fits(steps: int) -> bool:
        return replace(fitting, file=scaled(file, steps * STEP)).fits(settings, SPARE)

    nbytes = STEP * _largest(4 * file.weights_nbytes // STEP, fits)
    if not nbytes:
        raise DoesNotFitError(f"the memory that is free doesn't hold {tokens} tokens of context")
    return nbytes, tokens


def _largest(most: int, fit: Callable[[int], bool]) -> int:
    """The largest number up to most that fits, by bisection; 0 where none does."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fit(middle) else (low, middle - 1)
    return low


def known_context(context: int | str | None) -> int:
    """Its tokens, once they are chosen."""
    if not isinstance(context, int):
        raise TypeError("the context is not chosen yet")
    return context


def _sizes(share: Share) -> str:
    parts = f"weights {_size(share.weights)}, KV cache {_size(share.kv)}"
    return f"{_size(share.total)} ({parts}, buffers {_size(share.buffers)})"


def _size(nbytes: int) -> str:
    return f"{nbytes / GIB:.2f} GiB" if nbytes >= GIB // 10 else f"{nbytes / (1 << 20):.0f} MiB"
