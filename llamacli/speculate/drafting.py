"""An engine whose answers are drafted: with rows for what is checked, and a model that drafts."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Unpack

from llamacli.engine import DEFAULT_CONTEXT, Engine, EngineSettings, Loading
from llamacli.gguf import check_llama, read_gguf
from llamacli.speculate.costs import MOST_ROWS, Costs, default_costs
from llamacli.speculate.draft import DraftModel, check_same_tokens, drafting_cost
from llamacli.speculate.lookahead import Speculation


@dataclass(frozen=True)
class Drafting:
    """How an engine's answers are drafted; draft is the path of a model that does, too.

    Where costs are None they are measured before the first draft, and learned gets them.
    """

    draft: Path | None = None
    costs: Costs | None = None
    learned: Callable[[Costs], None] = lambda _: None

    def speculation(self, engine: Engine, model: DraftModel | None = None) -> Speculation:
        """The engine's: by the costs that are known, else by those usual for its device."""
        layers = engine.settings.gpu_layers
        on_gpu = isinstance(layers, int) and layers > engine.shape.blocks
        guessed = default_costs(gpu=on_gpu and not engine.settings.workers)
        return Speculation(self.costs or guessed, model, self.costs is not None, self.learned)


class DraftingEngine(Engine):
    """An engine with a speculation for each answer, or with None, which evaluates each token."""

    speculation: Speculation | None

    def __init__(
        self,
        path: Path,
        settings: EngineSettings | None = None,
        drafting: Drafting = Drafting(),
        **loading: Unpack[Loading],
    ) -> None:
        """As Engine's.

        The model that drafts is loaded first, and its weights count as taken for the other.
        Raises UsageError where the vocabularies differ.
        """
        settings = settings or EngineSettings()
        self._draft: Engine | None = None
        if drafting.draft is not None:
            check_same_tokens(read_gguf(drafting.draft), read_gguf(path))
            self._draft = Engine(drafting.draft, draft_settings(drafting.draft, settings))
            loading["held"] = self._draft.file.weights_nbytes
        try:
            super().__init__(path, replace(settings, outputs=MOST_ROWS), **loading)
        except BaseException:
            if self._draft is not None:
                self._draft.close()
            raise
        model = None
        if self._draft is not None:
            model = DraftModel(self._draft, drafting_cost(self._draft.file, self.file))
        self.speculation = drafting.speculation(self, model)

    def close(self) -> None:
        if self._draft is not None:
            self._draft.close()
        super().close()


def draft_settings(path: Path, settings: EngineSettings) -> EngineSettings:
    """Those of a model that drafts: in the other's context, as far as it was trained for it."""
    trained = check_llama(read_gguf(path)).context
    asked = settings.context if isinstance(settings.context, int) else DEFAULT_CONTEXT
    own = replace(settings, context=min(asked, trained), gpu_layers="auto", outputs=1, adapters=())
    return replace(own, workers=(), split=())  # it is small
