"""A model that another process has loaded: its file and vocabulary are here, its answers there."""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from llamacli.answer import Calling, Chunk
from llamacli.engine import Engine, EngineSettings, ProgressCallback, SamplingSettings, Vocabulary
from llamacli.gguf import GGUFFile


class Served(Protocol):
    """What a chat needs of it, by the names that an Engine has.

    tokens are what the chat's last answer left in the cache. lost says that the server is gone, or
    has the model no longer.
    """

    name: str
    quantization: str
    context_size: int
    settings: EngineSettings
    file: GGUFFile
    vocabulary: Vocabulary
    tokens: Sequence[int]

    @property
    def lost(self) -> bool: ...

    @property
    def closed(self) -> bool: ...

    def close(self) -> None: ...

    def answer(
        self,
        prompt: Sequence[int],
        sampling: SamplingSettings,
        *,
        chat: str,
        max_tokens: int | None,
        stop: Sequence[str],
        calling: Calling | None,
        interrupted: Callable[[], bool],
        on_progress: ProgressCallback | None,
    ) -> Iterator[Chunk]:
        """As generate, with what calls are held to made there; the calls stand in the text.

        chat names the conversation: at temperature 0 what was read for it is gone on from, and
        nothing else.
        """
        ...


ChatEngine = Engine | Served
