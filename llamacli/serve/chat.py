"""/v1/chat/completions: a conversation in, the assistant's next message out."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

from llamacli.serve import openai
from llamacli.serve.answers import Answers, Whole
from llamacli.serve.ask import MAX_TOP, Ask, refuse
from llamacli.serve.faults import invalid
from llamacli.serve.fields import Fields
from llamacli.serve.messages import read_messages
from llamacli.serve.stream import Piece
from llamacli.serve.tools import read_calling

REFUSED = {
    "functions": "; give tools", "function_call": "; give tool_choice",
    "audio": "", "modalities": ": text alone is", "prediction": "", "web_search_options": "",
    "echo": "", "suffix": "", "best_of": "",
}  # fmt: skip


class ChatAnswer:
    """A chat completion's objects, whole or as chunks."""

    done = "[DONE]"

    @staticmethod
    def read(fields: Fields) -> Ask:
        """Raises Fault with the field's path."""
        prompt = read_messages(fields)
        common, calling = openai.read_common(fields), read_calling(fields)
        if fields.values.get("modalities") == ["text"]:
            fields.take("modalities")
        refuse(fields, REFUSED)
        top = fields.whole("top_logprobs", 0, MAX_TOP)
        wanted = fields.flag("logprobs")
        if top and not wanted:
            raise invalid("top_logprobs", "goes with logprobs: true")
        fields.end()
        logprobs = (top or 0) if wanted else None
        return openai.check_shape(
            Ask(prompts=[prompt], calling=calling, logprobs=logprobs, **common)
        )

    def __init__(self, ask: Ask, answers: Answers) -> None:
        self.ask, self.answers = ask, answers
        kind = "chat.completion.chunk" if ask.stream else "chat.completion"
        self.head = openai.head("chatcmpl", kind, answers.model.name)

    def whole(self, answers: list[Whole]) -> dict[str, Any]:
        choices = [
            {
                "index": answer.index,
                "message": _message(answer),
                "logprobs": self._logprobs(answer.logprobs),
                "finish_reason": answer.result.finish_reason,
            }
            for answer in answers
        ]
        told = openai.usage(self.answers.prompt_tokens, [answer.result for answer in answers])
        return {**self.head, "choices": choices, "usage": told}

    async def chunks(self) -> AsyncIterator[dict[str, Any]]:
        """The role first, then pieces of text and calls, then why it ended.

        Raises Fault in mid-stream.
        """
        start = None if self.ask.calling else ""  # content that isn't there where it calls
        for index in range(self.ask.n):
            yield self._chunk(index, {"role": "assistant", "content": start, "refusal": None})
        results, calls = [], [-1] * self.ask.n
        async for piece in self.answers.pieces():
            logprobs: Any = piece.logprobs
            for delta in _deltas(piece, calls):
                yield self._chunk(piece.index, delta, logprobs)
                logprobs = ()
            if logprobs:
                yield self._chunk(piece.index, {}, logprobs)
            if piece.result is not None:
                results.append(piece.result)
                yield self._chunk(piece.index, {}, finish=piece.result.finish_reason)
        if self.ask.include_usage:
            told = openai.usage(self.answers.prompt_tokens, results)
            yield {**self.head, "choices": [], "usage": told}

    def _chunk(
        self, index: int, delta: dict[str, Any], logprobs: Any = (), finish: str | None = None
    ) -> dict[str, Any]:
        choice = {
            "index": index,
            "delta": delta,
            "logprobs": self._logprobs(logprobs) if logprobs else None,
            "finish_reason": finish,
        }
        usage = {"usage": None} if self.ask.include_usage else {}
        return {**self.head, "choices": [choice], **usage}

    def _logprobs(self, logprobs: Any) -> dict[str, Any] | None:
        if self.ask.logprobs is None:
            return None
        vocabulary = self.answers.model.engine.vocabulary
        return {"content": openai.logprobs_content(vocabulary, logprobs), "refusal": None}


def _message(answer: Whole) -> dict[str, Any]:
    """The assistant's; content is null where there are calls alone."""
    message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None}
    if answer.calls:
        message["content"] = answer.text if answer.text.strip() else None
        message["tool_calls"] = [
            {"id": openai.new_id("call"), "type": "function", "function": vars(call)}
            for call in answer.calls
        ]
    return message


def _deltas(piece: Piece, calls: list[int]) -> Iterator[dict[str, Any]]:
    """What a piece adds; calls counts those of each answer, from -1 on. A name comes once."""
    if piece.text:
        yield {"content": piece.text}
    for part in piece.calls:
        if part.name is not None:
            calls[piece.index] += 1
            start = {"name": part.name, "arguments": ""}
            head = {"id": openai.new_id("call"), "type": "function", "function": start}
            yield {"tool_calls": [{"index": calls[piece.index], **head}]}
        if part.arguments:
            more = {"function": {"arguments": part.arguments}}
            yield {"tool_calls": [{"index": calls[piece.index], **more}]}
