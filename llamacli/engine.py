"""A loaded model with its KV cache, whose contents are known token by token."""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from llamacli.cores import physical_cores
from llamacli.errors import DoesNotFitError, LlamacliError, UsageError
from llamacli.gguf_check import check_llama
from llamacli.gguf_file import read_gguf
from llamacli.loading import (
    FLASH_ATTENTION,
    KV_TYPES,
    EngineSettings,
    because,
    deferred_signals,
    load_model,
    quantization_name,
)
from llamacli.native import load_library
from llamacli.vocabulary import Vocabulary, make_vocabulary

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Without -c a context takes at most this many tokens: 1 GiB of F16 KV cache for an 8B model,
# where the 131,072 that Llama 3.1 was trained for would take 16.
DEFAULT_CONTEXT = 8192
ABORTED = 2  # llama_decode's code

Progress = Callable[[int, int], None]


class Engine:
    """A model in memory and one sequence of tokens in its KV cache. Close it, or use `with`.

    tokens holds the ids that are in the cache, in order. After an exception in prefill or decode
    (an interrupt, say) the cache may hold more than that; the next prefill drops the rest.
    """

    def __init__(
        self,
        path: Path,
        settings: EngineSettings | None = None,
        *,
        debug: bool = False,
        on_load: Callable[[float], None] | None = None,
    ) -> None:
        """Check the file, load it, make its context; on_load gets the share loaded, 0 to 1.

        Raises NotFoundError, InvalidModelError, UsageError (a context beyond the model's), and
        DoesNotFitError where memory is short.
        """
        self.path = Path(path)
        self.settings = settings or EngineSettings()
        self.file = read_gguf(self.path)
        self.shape = check_llama(self.file)
        self.context_size = _context_size(self.settings, self.shape.context)
        self.tokens: list[int] = []
        self._library = load_library(debug)
        self._model: Any = None
        self._context: Any = None
        try:
            self._model = load_model(self._library, self.path, self.settings, on_load)
            self.vocabulary: Vocabulary = make_vocabulary(self._library, self._model, self.file)
            self._context = self._make_context()
        except BaseException:
            self.close()
            raise
        self._memory = self._library.llama_get_memory(self._context)
        self._token = (self._library.llama_token * 1)()
        self._one = self._library.llama_batch_get_one(self._token, 1)
        self._decode = self._library.llama_decode

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the context and the model; may be called twice."""
        if self._context is not None:
            self._library.llama_free(self._context)
        if self._model is not None:
            self._library.llama_model_free(self._model)
        self._context = self._model = None
        self.tokens = []

    def reconfigure(self, settings: EngineSettings) -> None:
        """Make the context anew, empty; settings for the loading of weights must be the same."""
        self._library.llama_free(self._context)
        self._context, self.tokens = None, []
        self.settings = settings
        self.context_size = _context_size(settings, self.shape.context)
        self._context = self._make_context()
        self._memory = self._library.llama_get_memory(self._context)

    @property
    def name(self) -> str:
        """The model's own name, else its file's."""
        return str(self.file.metadata.get("general.name") or self.path.stem)

    @property
    def quantization(self) -> str:
        """The file type in llama.cpp's words without its remarks, as Q4_K_M or BF16."""
        return quantization_name(self.file)

    @property
    def context_pointer(self) -> Any:
        """The llama_context, for samplers and saved states."""
        return self._context

    @property
    def library(self) -> Any:
        """The low-level module llama_cpp.llama_cpp."""
        return self._library

    def prefill(
        self,
        tokens: Sequence[int],
        *,
        on_progress: Progress | None = None,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> int:
        """Make the cache hold exactly tokens, and the logits those after the last of them.

        What the cache shares with the start of tokens is kept, the rest of it dropped, and only
        new tokens are evaluated, the last one always. on_progress gets (tokens held, all) after
        each batch. Where interrupted says so, evaluation stops within a layer's time and the
        cache holds less. Returns how many tokens were kept. Raises DoesNotFitError where tokens
        exceed the context.
        """
        if not tokens:
            raise UsageError("there is nothing to evaluate: the prompt has no tokens")
        if len(tokens) > self.context_size:
            raise DoesNotFitError(
                f"the prompt has {len(tokens)} tokens, the context {self.context_size}; "
                "shorten the text or raise the context with -c"
            )
        kept = min(common_prefix(self.tokens, tokens), len(tokens) - 1)
        self.keep(kept)
        step = self.settings.batch
        signals: list[int] = []
        with deferred_signals(signals):
            for start in range(kept, len(tokens), step):
                part = tokens[start : start + step]
                if not self._evaluate(part, lambda: bool(signals) or interrupted()):
                    break
                self.tokens.extend(part)
                if on_progress is not None:
                    on_progress(len(self.tokens), len(tokens))
        return kept

    def keep(self, count: int) -> None:
        """Drop all but the first count tokens from the cache."""
        if count == 0 or not self._library.llama_memory_seq_rm(self._memory, 0, count, -1):
            self._library.llama_memory_clear(self._memory, False)
            count = 0
        del self.tokens[count:]

    def decode(self, token: int) -> None:
        """Evaluate one more token; the logits are those after it.

        Raises DoesNotFitError where the context is full.
        """
        if len(self.tokens) >= self.context_size:
            raise DoesNotFitError(f"the context of {self.context_size} tokens is full")
        self._token[0] = token
        if code := self._decode(self._context, self._one):
            raise _decode_error(code)
        self.tokens.append(token)

    def logit(self, token: int) -> float:
        """One value of logits()."""
        return float(self._library.llama_get_logits_ith(self._context, -1)[token])

    def logits(self) -> "NDArray[np.float32]":
        """The logits after the last token, float32 of shape (vocabulary,).

        A view of llama.cpp's memory: copy it to keep it beyond the next evaluation.
        """
        import numpy as np

        values = self._library.llama_get_logits_ith(self._context, -1)
        return np.ctypeslib.as_array(values, (self.vocabulary.size,))

    def _evaluate(self, tokens: Sequence[int], stopped: Callable[[], bool]) -> bool:
        """Evaluate a batch; False where it was stopped, and the cache may hold a part of it."""
        ids = (self._library.llama_token * len(tokens))(*tokens)  # the batch only points to it
        callback = self._library.ggml_abort_callback(lambda _: stopped())
        set_callback = self._library.llama_set_abort_callback
        set_callback(self._context, callback, None)
        try:
            batch = self._library.llama_batch_get_one(ids, len(tokens))
            code = self._decode(self._context, batch)
        finally:  # decode() goes without: a call an operation would slow it down
            set_callback(self._context, self._library.ggml_abort_callback(0), None)
        if code not in (0, ABORTED):
            raise _decode_error(code)
        return bool(code == 0)

    def _context_parameters(self) -> Any:
        params = self._library.llama_context_default_params()
        settings = self.settings
        params.n_ctx = self.context_size
        params.n_batch = settings.batch
        params.n_ubatch = min(settings.ubatch, settings.batch)
        params.n_outputs_max = 1  # logits are only asked for after the last token
        params.n_threads = settings.threads or physical_cores()
        params.n_threads_batch = settings.threads_batch or params.n_threads
        params.flash_attn_type = FLASH_ATTENTION[settings.flash_attention]
        params.type_k = params.type_v = KV_TYPES[settings.kv_type]
        params.no_perf = True
        # llama.cpp knows these keys but doesn't read them for the llama architecture.
        for key in ("yarn_beta_fast", "yarn_beta_slow"):
            value = self.file.metadata.get(f"llama.rope.scaling.{key}")
            if value is not None:
                setattr(params, key, float(value))
        return params

    def _make_context(self) -> Any:
        params = self._context_parameters()
        context = self._library.llama_init_from_model(self._model, params)
        if not context:
            raise DoesNotFitError(
                f"a context of {self.context_size} tokens can't be made for {self.path}"
                f"{because()}; lower it with -c"
            )
        return context


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens a and b have in common from the start."""
    for i, (left, right) in enumerate(zip(a, b, strict=False)):
        if left != right:
            return i
    return min(len(a), len(b))


def _context_size(settings: EngineSettings, trained: int) -> int:
    if settings.context is None or settings.context == "auto":
        return min(trained, DEFAULT_CONTEXT)
    if settings.context > trained:
        raise UsageError(
            f"a context of {settings.context} tokens was asked for; the model knows {trained}"
        )
    return settings.context


def _decode_error(code: int) -> LlamacliError:
    return LlamacliError(f"llama.cpp failed to evaluate (code {code}){because()}")
