"""Answers that may call tools: what holds them to it, and what of them is text."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from llamacli.answer.output import Chunk, Result
from llamacli.engine import Vocabulary
from llamacli.prompt import as_openai
from llamacli.terminal import as_json
from llamacli.tools import CALL_MARKERS, Call, HeldCalls, Reader, Tool, message_of

if TYPE_CHECKING:
    from llamacli.tools import Choice


@dataclass
class Parting:
    """An answer as it comes, parted into text and calls, of which at most so many are taken.

    held gives the calls piece by piece where the answer is held to them.
    """

    reader: Reader
    most: int | None
    held: HeldCalls = field(default_factory=HeldCalls)
    given: str = ""

    @property
    def calls(self) -> list[Call]:
        """Those that have come whole."""
        return self.reader.calls[: self.most]

    def feed(self, piece: str) -> str:
        """The text that can go out now that piece has come."""
        ready = self.reader.feed(piece)
        self.given += ready
        return ready

    def finish(self, piece: str, result: Result) -> tuple[str, Result]:
        """The last text, and the result of the text alone."""
        ready = self.feed(piece)
        rest = self.reader.finish(cut=result.finish_reason != "stop")
        self.given += rest
        result = replace(result, text=self.given)
        if self.calls and result.finish_reason == "stop":
            result = replace(result, finish_reason="tool_calls")
        return ready + rest, result


@dataclass
class Calling:
    """The tools that one answer may call, how it chooses, and the calls that came.

    first numbers the ids of its calls, after those of the conversation.
    """

    tools: Sequence[Tool]
    choice: "Choice" = "auto"
    parallel: bool = True
    threshold: float | None = None  # the default
    first: int = 0
    calls: list[Call] = field(default_factory=list)

    def spelled(self, vocabulary: Vocabulary) -> Collection[int]:
        """The control tokens that a call may have around it."""
        special = vocabulary.special_tokens
        return [special[marker] for marker in CALL_MARKERS if marker in special]

    def parted(self, chunks: Iterator[Chunk], *, lines: bool) -> Iterator[Chunk]:
        """The answer's text alone; where lines is set, the calls stand below it, one a line."""
        parting = self.parting()
        for chunk in chunks:
            if chunk.result is None:
                if text := parting.feed(chunk.text):
                    yield Chunk(text)
                continue
            text, result = parting.finish(chunk.text, chunk.result)
            self.calls = parting.calls
            if lines and self.calls:
                text += "\n" * bool(result.text.strip()) + "\n".join(map(_line, self.calls))
            yield Chunk(text, result)

    def parting(self) -> "Parting":
        """What parts one answer, fed with its pieces."""
        names = [tool.name for tool in self.tools] if self.choice != "none" else []
        return Parting(Reader(names), None if self.parallel else 1)

    def fields(self, text: str) -> dict[str, Any]:
        """What JSON has of the calls: as OpenAI writes them, their arguments a text."""
        if not self.calls:
            return {}
        message = as_openai(message_of(self.calls, text, self.first))
        return {"tool_calls": message["tool_calls"]}


def _line(call: Call) -> str:
    return as_json({"name": call.name, "arguments": call.arguments})
