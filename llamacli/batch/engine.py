"""An engine whose KV cache holds many sequences, with one batch for tokens of several."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from convert import Pool, deferred_signals
from llamacli.engine import KEPT_SEQUENCES, EngineSettings, Part, kv_nbytes
from llamacli.machine import physical_cores
from llamacli.speculate import Drafting, DraftingEngine

if TYPE_CHECKING:
    from ctypes import Array, c_uint8

MANY = 8  # sequences whose tokens several threads choose
MAX_PARALLEL = 256 - KEPT_SEQUENCES  # llama.cpp's LLAMA_MAX_SEQ


class BatchEngine(DraftingEngine):
    """An engine whose context has parallel sequences, and cells for all of them together.

    context_size is the most that one prompt and its answer can have. A model that drafts has as
    many sequences.
    """

    parallel: int
    draft: "BatchEngine | None"

    def __init__(
        self,
        path: Path,
        settings: EngineSettings,
        parallel: int,
        drafting: Drafting | None = None,
    ) -> None:
        """As DraftingEngine's."""
        import numpy  # noqa: F401  (choosers of tokens made from here on ask whether it is there)

        small = partial(BatchEngine, parallel=parallel)
        super().__init__(path, settings, drafting, small, parallel=parallel)
        library = self.library
        self.memory = library.llama_get_memory(self.context_pointer)
        # A batch is never more than llama.cpp takes at once: a full cache leaves none half done.
        self.rows, self.batch = self._rows.most, self._rows.batch
        self.cells = int(library.llama_n_ctx(self.context_pointer))
        self.kv_nbytes = kv_nbytes(self.shape, self.settings.kv_type, self.cells)
        self.tiles = not self.gpus and self.settings.flash_attention != "off"
        self.threads = physical_cores()  # which looks through the system's files
        self.choosers = Pool(self.threads) if parallel >= MANY else None

    def close(self) -> None:
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

        Gives the row of each one's first logits, counted from the last of all, which is -1; None
        where it has none.
        """
        return self._rows.fill(parts)

    def evaluate(self, stopped: Callable[[], bool] | None = None) -> int:
        """As Engine's. A token for each waits for no other thread that has Python's lock."""
        is_short = self.batch.n_tokens <= 2 * self.parallel
        return super().evaluate(None if is_short else stopped)
