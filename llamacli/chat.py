"""A conversation: its messages, and answers that evaluate only what is new."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime

from llamacli.engine import Engine
from llamacli.generate import Chunk, generate
from llamacli.prompt import encode_chat
from llamacli.sampling import SamplingSettings
from llamacli.template import LLAMA3_TEMPLATE

Message = dict[str, str]


@dataclass
class ChatSession:
    """messages grows by a question and an answer each turn; the KV cache is the engine's.

    Each turn's prompt is that of the whole conversation, token for token what its template makes
    of it; the engine keeps what the cache has of it and evaluates the rest.
    """

    engine: Engine
    sampling: SamplingSettings
    messages: list[Message] = field(default_factory=list)
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    date: datetime | None = None

    def send(self, text: str) -> Iterator[Chunk]:
        """Ask, and give the answer piece by piece; what was given is kept when it is cut off."""
        asked = [*self.messages, {"role": "user", "content": text}]
        tokens = encode_turns(self.engine, asked, date=self.date)
        answer = ""
        try:
            for chunk in generate(
                self.engine, tokens, self.sampling, max_tokens=self.max_tokens, stop=self.stop
            ):
                answer += chunk.text
                yield chunk
        finally:
            if answer:
                self.messages = [*asked, {"role": "assistant", "content": answer}]


def encode_turns(
    engine: Engine, messages: list[Message], *, date: datetime | None = None
) -> list[int]:
    """The prompt's tokens by the model's own template, else by Llama 3's."""
    template = engine.file.metadata.get("tokenizer.chat_template") or LLAMA3_TEMPLATE
    return encode_chat(engine.vocabulary, template, messages, date=date)
