"""What an answer is given as, without what makes one: a server's clients import no more."""

from dataclasses import dataclass, field
from typing import Literal

from llamacli.speculate import Drafted

FinishReason = Literal["stop", "length", "interrupted", "tool_calls"]


@dataclass(frozen=True)
class Result:
    """What an answer came to.

    tokens are the answer's ids without the end token; text is what they spell, up to a stop text
    and without control tokens, which aren't text. stop_text is the one that ended it.
    cached_tokens of the prompt_tokens were in the KV cache already. decode_seconds counts choosing
    and evaluating tokens, not what the caller does between them.
    """

    text: str
    tokens: tuple[int, ...]
    finish_reason: FinishReason
    prompt_tokens: int
    cached_tokens: int
    prefill_seconds: float
    decode_seconds: float
    seed: int
    stop_text: str | None = None
    drafted: Drafted = field(default_factory=Drafted)

    @property
    def answer_tokens(self) -> int:
        return len(self.tokens)

    @property
    def tokens_per_second(self) -> float:
        """Decode rate; 0 where nothing was decoded."""
        return self.answer_tokens / self.decode_seconds if self.decode_seconds else 0.0


@dataclass(frozen=True)
class Chunk:
    """A piece of the answer's text; the last one, whose text may be empty, carries the result."""

    text: str
    result: Result | None = None
