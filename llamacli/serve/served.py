"""A chat's model where a server of the same user has it loaded: prompts are encoded here."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llamacli import engine
from llamacli.answer import Calling, Chunk
from llamacli.errors import LlamacliError
from llamacli.gguf import GGUFFile
from llamacli.serve import client


@dataclass
class ServedModel:
    """Named as an Engine's are; see chat's Served. settings has the context that was asked for, and
    the adapters."""

    path: Path
    name: str
    quantization: str
    context_size: int
    settings: engine.EngineSettings
    file: GGUFFile
    vocabulary: engine.Vocabulary
    tokens: Sequence[int] = ()
    closed: bool = False

    @property
    def lost(self) -> bool:
        about = client.loaded(self.path, client.adapters_field(self.settings.adapters))
        return about is None or about["context"] < self.context_size

    def close(self) -> None:
        """There is nothing to free."""

    def answer(
        self,
        prompt: Sequence[int],
        sampling: engine.SamplingSettings,
        *,
        chat: str,
        max_tokens: int | None = None,
        stop: Sequence[str] = (),
        calling: Calling | None = None,
        interrupted: Callable[[], bool] = lambda: False,
        on_progress: engine.ProgressCallback | None = None,
    ) -> Iterator[Chunk]:
        """As Served says. Raises NotFoundError where the server is gone, Refused, and what the
        answer ended with there."""
        room = self.context_size - len(prompt) + 1
        settings = {
            name: value for name, value in vars(sampling).items() if value not in (None, ())
        }
        body = {
            **settings,
            **client.calling_field(calling),
            **client.adapters_field(self.settings.adapters),
            "tokens": list(prompt),
            "max_tokens": room if max_tokens is None else min(room, max_tokens),
            "stop": list(stop),
            "exact": True,
            "chat": chat,
            "progress": on_progress is not None,
        }
        try:
            begun = client.begin(self.path, body, interrupted)
        except LlamacliError:
            if not interrupted():
                raise
            yield Chunk("", client.interrupted_result(len(prompt)))
            return
        for chunk in begun.chunks(interrupted, on_progress):
            if chunk.result is not None:
                self.tokens = [*prompt, *chunk.result.tokens]
            yield chunk


def served_model(
    path: Path, context: Any, adapters: tuple[engine.AdapterChoice, ...]
) -> ServedModel | str:
    """The model of the file at path by a server of the user's; where there is none, why not.

    A context that was asked for is kept to, in a larger one of the server's.
    """
    about = client.loaded(path, client.adapters_field(adapters))
    if about is None:
        return "no server has it loaded" + " with the adapters" * bool(adapters)
    size: int = about["context"]
    if context == "auto" or (context is not None and context > size):
        return f"a server has it in a context of {size} tokens"
    settings = engine.EngineSettings(context=context, adapters=adapters)
    file, vocabulary = engine.load_file(path)
    name, quantization = about["model"], about["quantization"]
    return ServedModel(path, name, quantization, context or size, settings, file, vocabulary)
