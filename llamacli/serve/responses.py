"""/v1/responses: OpenAI's newer form of a conversation and its answer. Nothing is stored."""

import time
from collections.abc import AsyncIterator, Sequence
from itertools import count
from typing import Any

from llamacli.answer import Result
from llamacli.batch import TokenLogprob
from llamacli.serve.answers import Answers, Whole
from llamacli.serve.ask import MAX_TOKENS, MAX_TOP, Ask, read_lora, read_sampling, refuse
from llamacli.serve.chat import content_text
from llamacli.serve.faults import as_fault, invalid, unsupported
from llamacli.serve.fields import Fields, shown
from llamacli.serve.openai import IGNORED, logprobs_content, new_id, read_format
from llamacli.shape import Grammar

REFUSED = {
    "tools": " yet", "tool_choice": " yet", "previous_response_id": ": nothing is stored",
    "conversation": ": nothing is stored", "background": "", "prompt": "", "max_tool_calls": "",
    "context_management": "",
}  # fmt: skip
ROLES = ("system", "developer", "user", "assistant")
PARTS = ("input_text", "output_text", "text")
LOGPROBS = "message.output_text.logprobs"  # what include asks for


def read_response(fields: Fields) -> Ask:
    """Raises Fault with the field's path."""
    prompt = _conversation(fields)
    if fields.text("truncation") == "auto":
        raise unsupported("truncation", ": a prompt that is too long is refused, never cut")
    top = fields.whole("top_logprobs", 0, MAX_TOP)
    included = fields.items("include") or []
    if unknown := [name for name in included if name != LOGPROBS]:
        raise invalid("include", f"asks for {shown(unknown[0])}, which isn't there")
    ask = Ask(
        fields.text("model"),
        [prompt],
        read_sampling(fields),
        fields.whole("max_output_tokens", 1, MAX_TOKENS),
        shape=_read_format(fields.inside("text")),
        lora=read_lora(fields),
        logprobs=(top or 0) if included or top else None,
        stream=bool(fields.flag("stream")),
        ignored=tuple(fields.ignore([*IGNORED, "reasoning", "stream_options"])),
    )
    refuse(fields, REFUSED)
    fields.end()
    return ask


def _read_format(text: Fields | None) -> Grammar | None:
    if text is None:
        return None
    shape = read_format(text.inside("format"))
    text.ignore(["verbosity"])
    text.end()
    return shape


def _conversation(fields: Fields) -> list[dict[str, str]]:
    """The instructions first, then a text of the user's or messages."""
    messages = []
    if (instructions := fields.text("instructions")) is not None:
        messages.append({"role": "system", "content": instructions})
    given = fields.take("input")
    if isinstance(given, str):
        return [*messages, {"role": "user", "content": given}]
    if not isinstance(given, list) or not given:
        raise invalid("input", f"is a text or a list of messages, not {shown(given)}")
    for i, item in enumerate(given):
        where = f"input.{i}"
        if not isinstance(item, dict):
            raise invalid(where, f"is a message, not {shown(item)}")
        inside = Fields(item, where)
        if (kind := inside.text("type")) not in (None, "message"):
            raise invalid(f"{where}.type", f"is {shown(kind)}; messages alone are read")
        role = inside.one_of("role", ROLES)
        if role is None:
            raise invalid(f"{where}.role", "is missing")
        text = content_text(inside, "content", PARTS)
        inside.ignore(["id", "status", "phase"])
        inside.end()
        messages.append({"role": "system" if role == "developer" else role, "content": text})
    return messages


class ResponseAnswer:
    """A response, whole or as numbered events."""

    done = None

    def __init__(self, ask: Ask, answers: Answers) -> None:
        self.ask, self.answers = ask, answers
        self.item = new_id("msg")
        self.numbers = count()
        self.head: dict[str, Any] = {
            "id": new_id("resp"),
            "object": "response",
            "created_at": int(time.time()),
            "model": answers.model.name,
            "error": None,
            "instructions": None,
            "max_output_tokens": ask.max_tokens,
            "metadata": {},
            "parallel_tool_calls": True,
            "previous_response_id": None,
            "store": False,
            "temperature": ask.sampling.get("temperature"),
            "top_p": ask.sampling.get("top_p"),
            "tool_choice": "auto",
            "tools": [],
            "truncation": "disabled",
        }

    def whole(self, answers: list[Whole]) -> dict[str, Any]:
        result = answers[0].result
        assert result is not None
        return self._ended(answers[0].text, answers[0].logprobs, result)

    async def chunks(self) -> AsyncIterator[dict[str, Any]]:
        """Raises Fault in mid-stream."""
        begun = {**self.head, "status": "in_progress", "incomplete_details": None, "output": []}
        yield self._event("response.created", response={**begun, "usage": None})
        yield self._event("response.in_progress", response={**begun, "usage": None})
        item = {**self._message("", []), "status": "in_progress", "content": []}
        yield self._event("response.output_item.added", output_index=0, item=item)
        place = {"item_id": self.item, "output_index": 0, "content_index": 0}
        yield self._event("response.content_part.added", **place, part=self._part("", []))
        whole = Whole(0)
        async for piece in self.answers.stream:
            if piece.error is not None:
                raise as_fault(piece.error)
            whole.pieces.append(piece.text)
            whole.logprobs += piece.logprobs
            whole.result = piece.result
            if piece.text:
                told = self._logprobs(piece.logprobs)
                yield self._event("response.output_text.delta", **place, delta=piece.text,
                                  logprobs=told)  # fmt: skip
        assert whole.result is not None
        response = self._ended(whole.text, whole.logprobs, whole.result)
        message = response["output"][0]
        part = message["content"][0]
        yield self._event("response.output_text.done", **place, text=whole.text,
                          logprobs=part["logprobs"])  # fmt: skip
        yield self._event("response.content_part.done", **place, part=part)
        yield self._event("response.output_item.done", output_index=0, item=message)
        yield self._event(f"response.{response['status']}", response=response)

    def _event(self, kind: str, **values: Any) -> dict[str, Any]:
        return {"type": kind, "sequence_number": next(self.numbers), **values}

    def _ended(self, text: str, logprobs: Sequence[TokenLogprob], result: Result) -> dict[str, Any]:
        cut = result.finish_reason == "length"
        read, made = self.answers.prompt_tokens, result.answer_tokens
        return {
            **self.head,
            "status": "incomplete" if cut else "completed",
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "output": [self._message(text, logprobs, "incomplete" if cut else "completed")],
            "usage": {
                "input_tokens": read,
                "input_tokens_details": {"cached_tokens": result.cached_tokens},
                "output_tokens": made,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": read + made,
            },
        }

    def _message(
        self, text: str, logprobs: Sequence[TokenLogprob], status: str = "completed"
    ) -> dict[str, Any]:
        content = [self._part(text, logprobs)]
        head = {"id": self.item, "type": "message", "role": "assistant"}
        return {**head, "status": status, "content": content}

    def _part(self, text: str, logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
        told = self._logprobs(logprobs)
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": told}

    def _logprobs(self, logprobs: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
        return logprobs_content(self.answers.model.engine.vocabulary, logprobs)
