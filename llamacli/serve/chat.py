"""/v1/chat/completions: a conversation in, the assistant's next message out."""

import time
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from typing import Any

from llamacli.serve.answers import Answers, Whole
from llamacli.serve.ask import MAX_TOP, Ask, refuse
from llamacli.serve.faults import as_fault, invalid
from llamacli.serve.fields import Fields, shown
from llamacli.serve.openai import (
    check_shape,
    finish_reason,
    logprobs_content,
    new_id,
    read_common,
    read_format,
    read_limit,
    usage,
)

ROLES = ("system", "developer", "user", "assistant", "tool")
REFUSED = {
    "tools": " yet", "tool_choice": " yet", "functions": " yet", "function_call": " yet",
    "audio": "", "modalities": ": text alone is", "prediction": "", "web_search_options": "",
    "echo": "", "suffix": "", "best_of": "",
}  # fmt: skip


def read_chat(fields: Fields) -> Ask:
    """Raises Fault with the field's path."""
    prompt = read_messages(fields)
    common = read_common(fields)
    if fields.values.get("modalities") == ["text"]:
        fields.take("modalities")
    refuse(fields, REFUSED)
    top = fields.whole("top_logprobs", 0, MAX_TOP)
    wanted = fields.flag("logprobs")
    if top and not wanted:
        raise invalid("top_logprobs", "goes with logprobs: true")
    shape = read_format(fields.inside("response_format"))
    limit = read_limit(fields, "max_tokens", "max_completion_tokens")
    fields.end()
    ask = Ask(prompts=[prompt], max_tokens=limit, shape=shape, **common)
    return check_shape(replace(ask, logprobs=(top or 0) if wanted else None))


def read_messages(fields: Fields) -> list[dict[str, str]]:
    """Roles and texts; parts of text are joined. Raises Fault for anything else."""
    given = fields.needed("messages", fields.items)
    if not given:
        raise invalid("messages", "is empty")
    messages = []
    for i, message in enumerate(given):
        where = f"messages.{i}"
        if not isinstance(message, dict):
            raise invalid(where, f"is an object with role and content, not {shown(message)}")
        inside = Fields(message, where)
        role = inside.needed("role", partial(inside.one_of, words=ROLES))
        refuse(inside, {"tool_calls": " yet", "function_call": " yet", "audio": ""})
        inside.ignore(["name", "refusal", "tool_call_id", "annotations", "reasoning_content"])
        text = content_text(inside, "content")
        inside.end()
        messages.append({"role": "system" if role == "developer" else role, "content": text})
    return messages


def content_text(fields: Fields, name: str, kinds: tuple[str, ...] = ("text",)) -> str:
    """A text, or a list of parts of those kinds, joined. Raises Fault."""
    value, where = fields.take(name), fields.where(name)
    if isinstance(value, str):
        return value
    if value is None:
        raise invalid(where, "is missing")
    if not isinstance(value, list):
        raise invalid(where, f"is a text or a list of parts, not {shown(value)}")
    texts = []
    for i, part in enumerate(value):
        if not isinstance(part, dict):
            raise invalid(f"{where}.{i}", f"is a part with a type, not {shown(part)}")
        inside = Fields(part, f"{where}.{i}")
        kind = inside.needed("type", inside.text)
        if kind not in kinds:
            raise invalid(f"{where}.{i}.type", f"is {shown(kind)}; the model reads text alone")
        texts.append(inside.needed("text", inside.text))
    return "".join(texts)


class ChatAnswer:
    """A chat completion's objects, whole or as chunks."""

    done = "[DONE]"

    def __init__(self, ask: Ask, answers: Answers) -> None:
        self.ask, self.answers = ask, answers
        self.head = {
            "id": new_id("chatcmpl"),
            "object": "chat.completion.chunk" if ask.stream else "chat.completion",
            "created": int(time.time()),
            "model": answers.model.name,
            "system_fingerprint": None,
        }

    def whole(self, answers: list[Whole]) -> dict[str, Any]:
        results = [answer.result for answer in answers if answer.result is not None]
        choices = [
            {
                "index": answer.index,
                "message": {"role": "assistant", "content": answer.text, "refusal": None},
                "logprobs": self._logprobs(answer.logprobs),
                "finish_reason": finish_reason(result),
            }
            for answer, result in zip(answers, results, strict=True)
        ]
        return {
            **self.head,
            "choices": choices,
            "usage": usage(self.answers.prompt_tokens, results),
        }

    async def chunks(self) -> AsyncIterator[dict[str, Any]]:
        """The role first, then pieces of text, then why it ended. Raises Fault in mid-stream."""
        for index in range(self.ask.n):
            yield self._chunk(index, {"role": "assistant", "content": "", "refusal": None})
        results = []
        async for piece in self.answers.stream:
            if piece.error is not None:
                raise as_fault(piece.error)
            if piece.text or piece.logprobs:
                yield self._chunk(piece.index, {"content": piece.text}, piece.logprobs)
            if piece.result is not None:
                results.append(piece.result)
                yield self._chunk(piece.index, {}, finish=finish_reason(piece.result))
        if self.ask.include_usage:
            told = usage(self.answers.prompt_tokens, results)
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
        return {"content": logprobs_content(vocabulary, logprobs), "refusal": None}
