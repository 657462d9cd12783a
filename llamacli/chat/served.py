"""A model that another process has loaded: its file and vocabulary are here, its answers there."""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from llamacli.answer import Chunk
from llamacli.engine import Engine, EngineSettings, Vocabulary
from llamacli.gguf import GGUFFile


class Served(Protocol):
    """What a chat needs of it, by the names that an Engine has.

    tokens are what the chat's last answer left in the cache. lost says that the server is gone, or
    has the model no longer.

    answer is as generate, with what calls are held to made there, and the calls in the text. Its
    chat names the conversation: at temperature 0 what was read for it is gone on from, and nothing
    else.
    """

    name: str
    quantization: str
    context_size: int
    settings: EngineSettings
    file: GGUFFile
    vocabulary: Vocabulary
    tokens: Sequence[int]

    @property
    def answer(self) -> Callable[..., Iterator[Chunk]]: ...

    @property
    def lost(self) -> bool: ...

    @property
    def closed(self) -> bool: ...

    def close(self) -> None: ...


ChatEngine = Engine | Served
