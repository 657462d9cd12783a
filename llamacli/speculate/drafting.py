"""An engine whose answers are drafted, loaded with the model that drafts where one does.

What drafts is imported while the model loads.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from llamacli.engine import DEFAULT_CONTEXT, Engine, EngineSettings, Loading
from llamacli.gguf import check_llama, read_gguf
from llamacli.speculate.costs import MOST_ROWS, ON_CPU, ON_GPU, Costs

if TYPE_CHECKING:
    from llamacli.speculate.lookahead import Speculation


@dataclass(frozen=True)
class Drafting:
    """How an engine's answers are drafted; draft is the path of a model that does, too.

    Where costs are None they are measured before the first draft, and learned gets them.
    """

    draft: Path | None = None
    costs: Costs | None = None
    learned: Callable[[Costs], None] = lambda _: None

    def load(
        self, path: Path, settings: EngineSettings, small: Callable[[Path, EngineSettings], Engine]
    ) -> Engine | None:
        """The model that drafts for path's, as an engine of its own; None where none does.

        It is in the other's context, as far as it was trained for it. Raises UsageError where the
        vocabularies differ.
        """
        if self.draft is None:
            return None
        from llamacli.speculate.drafts import check_same_tokens

        file = read_gguf(self.draft)
        check_same_tokens(file, read_gguf(path))
        asked = settings.context if isinstance(settings.context, int) else DEFAULT_CONTEXT
        own = replace(settings, context=min(asked, check_llama(file).context), gpu_layers="auto")
        own = replace(own, outputs=1, adapters=(), workers=(), split=())  # it is small
        return small(self.draft, own)

    def speculation(self, engine: "DraftingEngine") -> "Speculation":
        """The engine's: by the costs that are known, else by those usual for its device."""
        from llamacli.speculate.drafts import DraftModel, drafting_cost
        from llamacli.speculate.lookahead import Speculation

        layers, small, model = engine.settings.gpu_layers, engine.draft, None
        if small is not None:
            model = DraftModel(small, drafting_cost(small.file, engine.file))
        on_gpu = isinstance(layers, int) and layers > engine.shape.blocks
        guessed = Costs(ON_GPU if on_gpu and not engine.settings.workers else ON_CPU)
        return Speculation(self.costs or guessed, model, self.costs is not None, self.learned)


class DraftingEngine(Engine):
    """An engine with a speculation for each answer, or with None, which evaluates each token.

    draft is the engine of a model that drafts.
    """

    def __init__(
        self,
        path: Path,
        settings: EngineSettings | None = None,
        drafting: Drafting | None = Drafting(),
        small: Callable[[Path, EngineSettings], Engine] = Engine,
        **loading: Unpack[Loading],
    ) -> None:
        """As Engine's; without a drafting there is no speculation.

        The model that drafts is loaded first, by small, and its weights count as taken for the
        other. Raises UsageError where the vocabularies differ.
        """
        settings = settings or EngineSettings()
        self.draft: Engine | None = None
        self.speculation: Speculation | None = None
        if drafting is not None:
            self.draft = drafting.load(path, settings, small)
            settings = replace(settings, outputs=MOST_ROWS)
        if self.draft is not None:
            loading["held"] = self.draft.file.weights_nbytes
        try:
            super().__init__(path, settings, **loading)
        except BaseException:
            self._close_draft()
            raise
        if drafting is not None:
            self.speculation = drafting.speculation(self)

    def close(self) -> None:
        self._close_draft()
        super().close()

    def _close_draft(self) -> None:
        if self.draft is not None:
            self.draft.close()
