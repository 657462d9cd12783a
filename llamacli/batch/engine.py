"""An engine whose KV cache holds many sequences, with one batch for tokens of several."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from convert import Pool, deferred_signals
from llamacli.engine import KEPT_SEQUENCES, Engine, EngineSettings, Rows, floats, kv_nbytes
from llamacli.machine import physical_cores
from llamacli.speculate import MOST_ROWS, Drafting, Speculation

if TYPE_CHECKING:
    from ctypes import Array, c_uint8

    import numpy as np
    from numpy.typing import NDArray

MANY = 8  # sequences whose tokens several threads choose
MAX_PARALLEL = 256 - KEPT_SEQUENCES  # llama.cpp's LLAMA_MAX_SEQ


class Part(NamedTuple):
    """What a batch has of a sequence: its tokens from a position on.

    There are logits after the last so many of them.
    """

    sequence: int
    position: int
    tokens: Sequence[int]
    outputs: int = 0


class BatchEngine(Engine):
    """An engine whose context has parallel sequences, and cells for all of them together.

    context_size is the most that one prompt and its answer can have. With a drafting the answers
    have drafts, by the speculation; draft is the engine of a model that drafts, with as many
    sequences.
    """

    parallel: int

    def __init__(
        self,
        path: Path,
        settings: EngineSettings,
        parallel: int,
        drafting: Drafting | None = None,
    ) -> None:
        """As Engine's, and DraftingEngine's where there is a drafting."""
        self.draft: BatchEngine | None = None
        if drafting is not None:
            small = partial(BatchEngine, parallel=parallel)
            self.draft = drafting.load(path, settings, small)
            settings = replace(settings, outputs=MOST_ROWS)
        held = 0 if self.draft is None else self.draft.file.weights_nbytes
        try:
            super().__init__(path, settings, parallel=parallel, held=held)
        except BaseException:
            if self.draft is not None:
                self.draft.close()
            raise
        self.speculation: Speculation | None = None
        if drafting is not None:
            self.speculation = drafting.speculation(self)
        library = self.library
        self.memory = library.llama_get_memory(self.context_pointer)
        # Never more than llama.cpp takes at once, so that a full cache leaves nothing half done.
        batches = library.llama_n_batch, library.llama_n_ubatch
        self.rows = min(int(count(self.context_pointer)) for count in batches)
        self._filled = Rows(library, self.rows)
        self.batch = self._filled.batch
        self.cells = int(library.llama_n_ctx(self.context_pointer))
        self.kv_nbytes = kv_nbytes(self.shape, self.settings.kv_type, self.cells)
        self.tiles = not self.gpus and self.settings.flash_attention != "off"
        self.threads = physical_cores()  # which looks through the system's files
        self.choosers = Pool(self.threads) if parallel >= MANY else None

    def close(self) -> None:
        if self.draft is not None:
            self.draft.close()
        if (choosers := getattr(self, "choosers", None)) is not None:
            choosers.shutdown()
        super().close()

    def keep(self, count: int) -> None:
        """As Engine's, of the first sequence alone: the others stay."""
        self.drop(0, count)
        del self.tokens[count:]

    def drop(self, sequence: int, start: int = -1, end: int = -1) -> None:
        """Free a sequence's cells from a position on, up to another; all of them by default."""
        self.library.llama_memory_seq_rm(self.memory, sequence, start, end)

    def copy(self, source: int, target: int, count: int = -1) -> None:
        """Have a sequence share the first count cells of another, all of them by default."""
        self.library.llama_memory_seq_cp(self.memory, source, target, 0, count)

    def restore_sequence(self, sequence: int, state: "Array[c_uint8]") -> bool:
        """Have a sequence hold what sequence_state gave; False where there aren't cells enough."""
        context, size = self.context_pointer, len(state)
        with deferred_signals([]):
            return bool(self.library.llama_state_seq_set_data(context, state, size, sequence))

    def fill(self, parts: Sequence[Part]) -> list[int | None]:
        """Put them into the batch, at most self.rows tokens.

        Gives the row of each one's first logits, None where it has none.
        """
        tokens, positions, numbers, outputs = list[int](), list[int](), list[int](), list[int]()
        rows = list[int | None]()
        for part in parts:
            count = len(part.tokens)
            tokens += part.tokens
            positions += range(part.position, part.position + count)
            numbers += [part.sequence] * count
            outputs += [0] * (count - part.outputs) + [1] * part.outputs
            rows.append(len(tokens) - part.outputs if part.outputs else None)
        self._filled.fill(tokens, positions, numbers, outputs)
        return rows

    def all_logits(self, count: int) -> "NDArray[np.float32]":
        """The logits of the batch's tokens that have any, count of them: float32 of shape (count,
        vocabulary), a view as that of logits."""
        values = self.library.llama_get_logits(self.context_pointer)
        return floats(values, count * self.vocabulary.size).reshape(count, -1)

    def evaluate(self, interrupted: Callable[[], bool] | None = None) -> int:
        """Evaluate the batch; llama_decode's code.

        Long prompts can be interrupted; a call an operation would slow down single tokens, and
        waits for Python's lock where other threads have it.
        """
        library, context, batch = self.library, self.context_pointer, self.batch
        if interrupted is None or batch.n_tokens <= 2 * self.parallel:
            return int(self._decode(context, batch))
        callback = library.ggml_abort_callback(lambda _: interrupted())
        library.llama_set_abort_callback(context, callback, None)
        try:
            return int(self._decode(context, batch))
        finally:
            library.llama_set_abort_callback(context, library.ggml_abort_callback(0), None)
