"""An engine whose answers are drafted: with rows for what is checked, and a model that drafts."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Unpack

from llamacli.engine import DEFAULT_CONTEXT, Engine, EngineSettings, Loading
from llamacli.gguf import check_llama, read_gguf
from llamacli.speculate.costs import MOST_ROWS, Costs, default_costs
from llamacli.speculate.draft import DraftModel, check_same_tokens, drafting_cost
from llamacli.speculate.lookahead import Speculation


class DraftingEngine(Engine):
    """An engine with a speculation for each answer, or with None, which evaluates each token."""

    speculation: Speculation | None

    def __init__(
        self,
        path: Path,
        settings: EngineSettings | None = None,
        *,
        draft: Path | None = None,
        costs: Costs | None = None,
        learned: Callable[[Costs], None] = lambda _: None,
        **loading: Unpack[Loading],
    ) -> None:
        """As Engine's; draft is the path of a model that drafts.

        Where costs are None they are measured before the first draft, and learned gets them.

        The model that drafts is loaded first, and its weights count as taken for the other.
        Raises UsageError where the vocabularies differ.
        """
        settings = settings or EngineSettings()
        self._draft: Engine | None = None
        if draft is not None:
            check_same_tokens(read_gguf(draft), read_gguf(path))
            self._draft = _small_engine(draft, settings)
            loading["held"] = sum(tensor.nbytes for tensor in self._draft.file.tensors)
        try:
            super().__init__(path, replace(settings, outputs=MOST_ROWS), **loading)
        except BaseException:
            if self._draft is not None:
                self._draft.close()
            raise
        model = None
        if self._draft is not None:
            model = DraftModel(self._draft, drafting_cost(self._draft.file, self.file))
        layers = self.settings.gpu_layers
        on_gpu = not settings.workers and isinstance(layers, int) and layers > self.shape.blocks
        guessed = default_costs(gpu=on_gpu)
        self.speculation = Speculation(costs or guessed, model, costs is not None, learned)

    def close(self) -> None:
        if self._draft is not None:
            self._draft.close()
        super().close()


def _small_engine(path: Path, settings: EngineSettings) -> Engine:
    """In the other's context, as far as it was trained for it."""
    trained = check_llama(read_gguf(path)).context
    asked = settings.context if isinstance(settings.context, int) else DEFAULT_CONTEXT
    own = replace(settings, context=min(asked, trained), gpu_layers="auto", outputs=1, adapters=())
    own = replace(own, workers=(), split=())  # it is small
    return Engine(path, own)
