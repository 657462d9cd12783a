"""A loaded model with its KV cache, whose contents are known token by token."""

import math
from collections.abc import Callable, Sequence
from ctypes import Array, c_uint8
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from convert import deferred_signals
from llamacli.engine.adapters import Scales, apply_adapters
from llamacli.engine.context import (
    ABORTED,
    Context,
    Part,
    Rows,
    common_prefix,
    context_parameters,
    decode_error,
    decode_together,
    default_threads,
    floats,
    new_context,
    plan_context,
)
from llamacli.engine.model import LoadedModel, Loading, in_background
from llamacli.engine.settings import EngineSettings
from llamacli.errors import (
    DoesNotFitError,
    InvalidModelError,
    LlamacliError,
)
from llamacli.machine import logged_reason

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Tokens of KV cache to begin with. Zeroing all of 8,192 takes 0.1 s for a 1B model and 0.4 s for
# 8B, which short prompts can do without.
FIRST_ROOM = 1024

ProgressCallback = Callable[[int, int], None]


class NoNumbersError(InvalidModelError):
    """A model computes what is no number, as by damaged weights; its engine's cache is empty."""


class Engine(LoadedModel):
    """A model in memory and one sequence of tokens in its KV cache. Close it, or use `with`.

    tokens holds the ids that are in the cache, in order. After an exception in prefill or decode
    (an interrupt, say) the cache may hold more than that; the next prefill drops the rest.
    """

    def __init__(
        self,
        path: Path,
        settings: EngineSettings | None = None,
        *,
        observer: Any = None,
        **loading: Unpack[Loading],
    ) -> None:
        """Load the model and make its context.

        With parallel the context has room for so many sequences and one more. observer is
        llama.cpp's cb_eval, a ctypes callback that gets each node of the graph. The rest, and what
        is raised, is LoadedModel's; DoesNotFitError also where the context can't be made.
        """
        self._observer = observer
        self.tokens: list[int] = []
        self._held: Context | None = None
        super().__init__(path, settings, **loading)
        try:
            with deferred_signals([]), in_background(self.read_vocabulary):
                self._change_context(self._first_room())
        except BaseException:
            self.close()
            raise
        self._decode = self.library.llama_decode
        if self.settings.workers:
            size = self.vocabulary.size if observer is None else 0
            self._decode = partial(decode_together, self.library, self.workers, size)

    def close(self) -> None:
        """Free the context and the model; may be called twice."""
        held, self._held = self._held, None
        self.tokens = []
        with deferred_signals([]):  # llama.cpp logs here, too
            if held is not None:
                self.library.llama_free(held.pointer)
            super().close()

    def reconfigure(self, settings: EngineSettings) -> None:
        """Make the context anew, empty; settings for the loading of weights must be the same.

        Where it can't be made the former settings hold, with an empty context of theirs.
        """
        former = self.settings
        self._fit(replace(settings, overcommit=True))  # the weights are there already
        with deferred_signals([]):
            self.tokens = []
            try:
                self._change_context(self._first_room())
            except LlamacliError:
                self._fit(replace(former, overcommit=True))
                self._change_context(self._first_room())
                raise

    def make_room(self, tokens: int) -> None:
        """Have cells for that many tokens: the KV cache begins small, and grows to all at once.

        What is in it stays, also where memory is short, which raises DoesNotFitError; the logits
        don't. Where llama.cpp can't move it, which raises LlamacliError, it is empty then.
        """
        room = self._context.room
        if tokens <= room:
            return
        with deferred_signals([]):
            self.keep(len(self.tokens))
            state = self.sequence_state()
            try:
                self._change_context(self.context_size, state)
            except LlamacliError:
                self._change_context(room, state)
                raise

    def use_adapters(self, scales: Scales) -> None:
        """Compute with the loaded adapters at these scales; what is in the cache is not theirs."""
        if scales != self.scales:
            apply_adapters(self.library, self.context_pointer, self.adapters, scales)
            self.scales = scales

    def sequence_state(
        self, sequence: int = 0, memory: Callable[[int], Any] = bytearray
    ) -> Array[c_uint8]:
        """The KV cache of tokens, a copy in llama.cpp's own format in so many bytes of memory; or
        of another sequence."""
        context = self.context_pointer
        with self.workers.watched(), deferred_signals([]):
            size = self.library.llama_state_seq_get_size(context, sequence)
            state = (c_uint8 * size).from_buffer(memory(size))
            used: int = self.library.llama_state_seq_get_data(context, state, size, sequence)
        return (c_uint8 * used).from_buffer(state)

    @property
    def context_pointer(self) -> Any:
        """The llama_context, for samplers and saved states. Raises LlamacliError once closed."""
        return self._context.pointer

    def prefill(
        self,
        tokens: Sequence[int],
        *,
        on_progress: ProgressCallback | None = None,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> int:
        """Make the cache hold exactly tokens, and the logits those after the last of them.

        What the cache shares with the start of tokens is kept, the rest of it dropped, and only
        new tokens are evaluated, the last one always. on_progress gets (tokens held, all) after
        each batch. Where interrupted says so, evaluation stops within a layer's time and the
        cache holds less. Returns how many tokens were kept. Raises what most_tokens raises.
        """
        self.most_tokens(len(tokens))
        kept = min(common_prefix(self.tokens, tokens), len(tokens) - 1)
        self.keep(kept)
        self.make_room(len(tokens))
        step = self.settings.batch
        signals: list[int] = []

        def stopped() -> bool:
            return bool(signals) or interrupted()

        with deferred_signals(signals):
            for start in range(kept, len(tokens), step):
                if not self._evaluate(tokens[start : start + step], 1, stopped):
                    break
                if on_progress is not None:
                    on_progress(len(self.tokens), len(tokens))
            self.library.llama_synchronize(self.context_pointer)  # a GPU computes on its own
        return kept

    def keep(self, count: int) -> None:
        """Drop all but the first count tokens from the cache."""
        memory = self._context.memory
        if count == 0 or not self.library.llama_memory_seq_rm(memory, 0, count, -1):
            self.library.llama_memory_clear(memory, False)
            count = 0
        del self.tokens[count:]

    def decode(self, token: int) -> None:
        """Evaluate one more token; the logits are those after it.

        Raises DoesNotFitError where the context is full.
        """
        self.decode_rows([token])

    def decode_rows(self, tokens: Sequence[int]) -> None:
        """Evaluate several tokens at once, at most settings.outputs; row i has the logits after
        the ith.

        Raises DoesNotFitError where the context can't hold them.
        """
        count = len(self.tokens) + len(tokens)
        if count > self.context_size:
            raise DoesNotFitError(f"the context of {self.context_size} tokens is full")
        self.make_room(count)
        self._evaluate(tokens, len(tokens))

    def _evaluate(
        self, tokens: Sequence[int], outputs: int, stopped: Callable[[], bool] | None = None
    ) -> bool:
        """Evaluate a batch after what is in the cache, with logits after so many of its last
        tokens. False where it was stopped; the cache may hold a part of it then."""
        self._rows.fill([Part(0, len(self.tokens), tokens, outputs)])
        if (code := self.evaluate(stopped)) == 0:
            self.tokens.extend(tokens)
        elif code != ABORTED:
            raise decode_error(code)
        return code == 0

    def evaluate(self, stopped: Callable[[], bool] | None = None) -> int:
        """Evaluate the batch that was filled, asking stopped now and then; llama_decode's code.

        Short batches go without: a call an operation would slow them down.
        """
        library, context = self.library, self.context_pointer
        if stopped is None:
            return int(self._decode(context, self._rows.batch))
        callback = library.ggml_abort_callback(lambda _: stopped())
        library.llama_set_abort_callback(context, callback, None)
        try:
            return int(self._decode(context, self._rows.batch))
        finally:
            library.llama_set_abort_callback(context, library.ggml_abort_callback(0), None)

    def logit(self, token: int, row: int = -1) -> float:
        """One value of logits(row)."""
        return float(self.library.llama_get_logits_ith(self.context_pointer, row)[token])

    def check_number(self, logit: float) -> None:
        """Raises NoNumbersError where a chosen token's logit is none.

        The cache's bytes are emptied, too: what is no number in it would make others' sums none,
        though these leave it out.
        """
        if not math.isfinite(logit):
            self.library.llama_memory_clear(self._context.memory, True)
            self.tokens = []
            raise NoNumbersError(
                f"{self.path}: the model computes {logit} for a token; its weights are damaged, "
                "convert or fetch it again"
            )

    def logits(self, row: int = -1) -> "NDArray[np.float32]":
        """The logits after the last token, or those of a row, float32 of shape (vocabulary,).

        A view of llama.cpp's memory: copy it to keep it beyond the next evaluation.
        """
        values = self.library.llama_get_logits_ith(self.context_pointer, row)
        return floats(values, self.vocabulary.size)

    def all_logits(self, count: int) -> "NDArray[np.float32]":
        """The logits of the batch's tokens that have any, count of them: float32 of shape (count,
        vocabulary), a view as that of logits."""
        values = self.library.llama_get_logits(self.context_pointer)
        return floats(values, count * self.vocabulary.size).reshape(count, -1)

    def _first_room(self) -> int:
        """All of the context where it costs nothing or llama.cpp chooses rope factors by it."""
        longrope = any(tensor.name.startswith("rope_factors_") for tensor in self.file.tensors)
        whole = self.parallel is not None or self.gpus or longrope
        return self.context_size if whole else min(self.context_size, FIRST_ROOM)

    @property
    def _context(self) -> Context:
        """The one there is. Raises LlamacliError where none could be made, or after close."""
        if self._held is None:
            raise LlamacliError(f"{self.path} has no context any more; load it again")
        return self._held

    def _change_context(self, room: int, state: "Array[c_uint8] | None" = None) -> None:
        """Another context in place of the one there is, with the KV cache of tokens in it.

        To be called with signals deferred. Raises DoesNotFitError; there is no context then.
        """
        former, self._held = self._held, None
        if former is not None:
            self.library.llama_free(former.pointer)
        plan = plan_context(room, self.settings, self.parallel)
        layers, cores = self.settings.gpu_layers, self._processor.cores
        threads = default_threads(int(layers), self.shape.blocks, cores)
        params = context_parameters(self.library, plan, self.settings, self.file, threads)
        if self._observer is not None:
            params.cb_eval = self._observer
        pointer = new_context(self.library, self._model, params, self.workers)
        if not pointer:
            raise DoesNotFitError(
                f"a context of {self.context_size} tokens can't be made for {self.path}"
                f"{logged_reason()}; lower it with -c"
            )
        self._held = Context(pointer, self.library.llama_get_memory(pointer), room)
        # Never more than llama.cpp takes at once.
        self._rows = Rows(self.library, int(self.library.llama_n_batch(pointer)))
        apply_adapters(self.library, pointer, self.adapters, self.scales)
        set_state = self.library.llama_state_seq_set_data
        if state is not None and self.tokens and not set_state(pointer, state, len(state), 0):
            self.tokens = []
            raise LlamacliError(f"llama.cpp can't move its KV cache{logged_reason()}")
