"""A llama.cpp context: its sizes, planned in one place for loading and for counting memory, and
the batches of tokens that are evaluated in it."""

from collections.abc import Sequence
from ctypes import POINTER, Array, addressof, c_float, c_int8, c_int32, c_void_p, cast, sizeof
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from llamacli.engine.settings import FLASH_ATTENTION, KV_TYPES, EngineSettings
from llamacli.errors import (
    DoesNotFitError,
    InvalidModelError,
    LlamacliError,
    UnreachableError,
)
from llamacli.gguf import GGUFFile
from llamacli.machine import logged_reason
from llamacli.workers import Workers

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ABORTED, NO_MEMORY = 2, -2  # llama_decode's codes
PADDING = 256  # llama.cpp rounds the cells of a KV cache up to these
SEQUENCE_CELLS = 1024  # cells for each sequence beside the first
EMBEDDING_THREADS = 2  # looking up embeddings goes no faster with more: docs/performance.md
KEPT_SEQUENCES = 16  # beside those that are answered in: what finished ones leave for others


@dataclass(frozen=True)
class ContextPlan:
    """cells of KV cache for all sequences; batch and ubatch in tokens; outputs are rows of logits.

    One sequence may be as long as the context that was asked for.
    """

    cells: int
    sequences: int
    outputs: int
    batch: int
    ubatch: int


@dataclass(frozen=True)
class Context:
    """A llama_context, its memory (the KV cache), and how many tokens one sequence can have."""

    pointer: Any
    memory: Any
    room: int


def plan_context(context: int, settings: EngineSettings, parallel: int | None) -> ContextPlan:
    """For one conversation, or for that many sequences side by side and their common start."""
    batch = max(settings.batch, settings.outputs)  # as many may be evaluated at once
    ubatch = min(settings.ubatch, batch)
    if parallel is None:
        return ContextPlan(context, 1, settings.outputs, batch, ubatch)
    batch = max(ubatch, parallel, settings.outputs)
    sequences = parallel + KEPT_SEQUENCES
    outputs = max(sequences, settings.outputs)
    return ContextPlan(shared_cells(context, parallel), sequences, outputs, batch, batch)


def shared_cells(context: int, parallel: int) -> int:
    """As many as one context has, and SEQUENCE_CELLS for each further sequence."""
    return min(context * parallel, context + SEQUENCE_CELLS * (parallel - 1))


def default_threads(layers: int, blocks: int, cores: int) -> int:
    """Of a processor with so many cores: with all blocks' layers and the output on GPUs, the
    embeddings are all that it computes."""
    return EMBEDDING_THREADS if layers > blocks else cores


def context_parameters(
    library: Any, plan: ContextPlan, settings: EngineSettings, file: GGUFFile, threads: int
) -> Any:
    """llama_context_params; threads are taken where settings name none."""
    params = library.llama_context_default_params()
    params.n_ctx = plan.cells
    params.n_seq_max = plan.sequences
    params.n_outputs_max = plan.outputs  # logits are only asked for after a sequence's last token
    params.n_batch = plan.batch
    params.n_ubatch = plan.ubatch
    params.kv_unified = plan.sequences > 1
    params.n_threads = settings.threads or threads
    params.n_threads_batch = settings.threads_batch or params.n_threads
    params.flash_attn_type = FLASH_ATTENTION[settings.flash_attention]
    params.type_k = params.type_v = KV_TYPES[settings.kv_type]
    params.no_perf = True
    # llama.cpp knows these keys but doesn't read them for the llama architecture.
    for key in ("yarn_beta_fast", "yarn_beta_slow"):
        value = file.metadata.get(f"llama.rope.scaling.{key}")
        if value is not None:
            setattr(params, key, float(value))
    return params


def new_context(library: Any, model: Any, params: Any, workers: Workers) -> Any:
    """A llama_context; None where llama.cpp can't make it. Raises UnreachableError."""
    pointer = None
    try:
        with workers.watched():
            pointer = library.llama_init_from_model(model, params)
    except UnreachableError:
        if pointer:
            library.llama_free(pointer)
        raise
    return pointer


def common_prefix(a: Sequence[object], b: Sequence[object]) -> int:
    """How much a and b have in common from the start, in items, by comparing whole stretches."""
    if type(a) is not type(b):
        a, b = list(a), list(b)
    same, differs = 0, min(len(a), len(b)) + 1
    step = differs - 1
    while same + 1 < differs:
        if a[same : same + step] == b[same : same + step]:
            same += step
        else:
            differs = same + step
        step = max((differs - same) // 2, 1)
    return same


class Part(NamedTuple):
    """What a batch has of a sequence: its tokens from a position on.

    There are logits after the last so many of them.
    """

    sequence: int
    position: int
    tokens: Sequence[int]
    outputs: int = 0


class Rows:
    """llama.cpp's batch of at most so many tokens, in memory of Python's, which is filled by
    slices: a value at a time takes several times as long."""

    def __init__(self, library: Any, most: int) -> None:
        self.most = most
        self._tokens, self._positions, self._sequences = ((c_int32 * most)() for _ in range(3))
        self._outputs: Array[Any] = (c_int8 * most)()
        first, size = addressof(self._sequences), sizeof(c_int32)
        places = (c_void_p * most)(*range(first, first + size * most, size))
        numbers = cast(places, POINTER(POINTER(c_int32)))  # a pointer of ctypes each takes 1 µs
        counts = (c_int32 * most)(*[1] * most)
        columns = self._tokens, None, self._positions, counts, numbers, self._outputs
        self.batch = library.llama_batch(0, *columns)

    def fill(self, parts: Sequence[Part]) -> list[int | None]:
        """Put them into the batch. Gives the row of each one's first logits, counted from the last
        of all, which is -1; None where it has none."""
        start, rows = 0, list[int | None]()
        outputs = sum(part.outputs for part in parts)
        for part in parts:
            count = len(part.tokens)
            end = start + count
            self._tokens[start:end] = list(part.tokens)
            self._positions[start:end] = list(range(part.position, part.position + count))
            self._sequences[start:end] = [part.sequence] * count
            self._outputs[start:end] = [0] * (count - part.outputs) + [1] * part.outputs
            rows.append(-outputs if part.outputs else None)
            start, outputs = end, outputs - part.outputs
        self.batch.n_tokens = start
        return rows


def decode_together(library: Any, workers: Workers, width: int, context: Any, batch: Any) -> int:
    """llama_decode, waited for: its code. width is that of a row of logits, 0 where none is read.

    Raises UnreachableError where a worker was lost over it, and InvalidModelError where logits
    are no numbers, which llama.cpp's samplers would sort beyond their ends: they came from others.
    """
    with workers.watched():
        code = int(library.llama_decode(context, batch))
        library.llama_synchronize(context)
    rows = sum(batch.logits[: batch.n_tokens])
    if code == 0 and rows and width:
        import numpy as np

        if not np.isfinite(floats(library.llama_get_logits(context), rows * width)).all():
            raise InvalidModelError("the model computes no numbers on these workers")
    return code


def floats(pointer: Any, count: int) -> "NDArray[np.float32]":
    """A view of so many of them, from a pointer of ctypes on; as_array takes four times as long."""
    import numpy as np

    held: Any = (c_float * count).from_address(addressof(pointer.contents))
    view: NDArray[np.float32] = np.frombuffer(held, np.float32)
    return view


def decode_error(code: int) -> LlamacliError:
    """What a code of llama_decode other than 0 means."""
    kind = DoesNotFitError if code == NO_MEMORY else LlamacliError
    return kind(f"llama.cpp failed to evaluate (code {code}){logged_reason()}")
