"""/v1/responses: OpenAI's newer form of a conversation and its answer. Nothing is stored."""

import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any

from llamacli.answer import Calling, Result
from llamacli.prompt import Message
from llamacli.serve.answers import Answers, Whole
from llamacli.serve.ask import MAX_TOKENS, MAX_TOP, Ask, read_ask, refuse
from llamacli.serve.faults import invalid, unsupported
from llamacli.serve.fields import Fields, objects, shown
from llamacli.serve.logprobs import Said
from llamacli.serve.messages import content_text, function_call
from llamacli.serve.openai import IGNORED, check_shape, logprobs_content, new_id, read_format_in
from llamacli.serve.stream import Piece
from llamacli.serve.tools import WORDS, read_flat_calling
from llamacli.tools import Tool

REFUSED = {
    "previous_response_id": ": nothing is stored",
    "conversation": ": nothing is stored", "background": "", "prompt": "", "max_tool_calls": "",
    "context_management": "",
}  # fmt: skip
ROLES = ("system", "developer", "user", "assistant")
PARTS = ("input_text", "output_text", "text")
# What include asks for: agents ask for reasoning, too, of which there is none here.
LOGPROBS, REASONING = "message.output_text.logprobs", "reasoning.encrypted_content"


def _conversation(fields: Fields) -> list[Message]:
    """The instructions first, then a text of the user's or messages."""
    messages: list[Message] = []
    if (instructions := fields.text("instructions")) is not None:
        messages.append({"role": "system", "content": instructions})
    given = fields.take("input")
    if isinstance(given, str):
        return [*messages, {"role": "user", "content": given}]
    if not isinstance(given, list) or not given:
        raise invalid("input", f"is a text or a list of messages, not {shown(given)}")
    called = False
    for inside in objects(given, "input"):
        kind = inside.text("type") or "message"
        inside.ignore(["status"])
        if kind == "function_call":
            call = function_call(inside, inside.needed("call_id", inside.text))
            inside.ignore(["id"])
            if not called:  # calls in a row are one message's
                messages.append({"role": "assistant", "content": None, "tool_calls": []})
            messages[-1]["tool_calls"].append(call)
        elif kind == "function_call_output":
            identity = inside.needed("call_id", inside.text)
            inside.ignore(["id"])
            text = content_text(inside, "output", PARTS)
            messages.append({"role": "tool", "tool_call_id": identity, "content": text})
        elif kind == "message":
            role = inside.needed("role", partial(inside.one_of, words=ROLES))
            text = content_text(inside, "content", PARTS)
            inside.ignore(["id", "phase"])
            messages.append({"role": "system" if role == "developer" else role, "content": text})
        else:
            kinds = "message, function_call and function_call_output are read"
            raise invalid(inside.where("type"), f"is {shown(kind)}; {kinds}")
        called = kind == "function_call"
        inside.end()
    return messages


class ResponseAnswer:
    """A response, whole or as numbered events."""

    done = None

    @staticmethod
    def read(fields: Fields) -> Ask:
        """Raises Fault with the field's path."""
        prompt = _conversation(fields)
        if fields.text("truncation") == "auto":
            raise unsupported("truncation", ": a prompt that is too long is refused, never cut")
        top = fields.whole("top_logprobs", 0, MAX_TOP)
        included = fields.items("include") or []
        if unknown := [name for name in included if name not in (LOGPROBS, REASONING)]:
            raise invalid("include", f"asks for {shown(unknown[0])}, which isn't there")
        ask = Ask(
            prompts=[prompt],
            max_tokens=fields.whole("max_output_tokens", 1, MAX_TOKENS),
            shape=read_format_in(fields.inside("text"), "verbosity"),
            calling=read_flat_calling(fields),
            logprobs=(top or 0) if LOGPROBS in included or top else None,
            **read_ask(fields, [*IGNORED, "reasoning", "stream_options"]),
        )
        refuse(fields, REFUSED)
        fields.end()
        return check_shape(ask, "text.format")

    def __init__(self, ask: Ask, answers: Answers) -> None:
        self.ask, self.answers = ask, answers
        self.output: list[_Item] = []
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
            "parallel_tool_calls": ask.calling.parallel if ask.calling else True,
            "previous_response_id": None,
            "store": False,
            "temperature": ask.sampling.get("temperature"),
            "top_p": ask.sampling.get("top_p"),
            "tool_choice": _choice(ask.calling),
            "tools": [_told(tool) for tool in ask.calling.tools] if ask.calling else [],
            "truncation": "disabled",
        }

    def whole(self, answers: list[Whole]) -> dict[str, Any]:
        answer = answers[0]
        text = answer.text if answer.text.strip() or not answer.calls else ""
        told = [one for one in answer.logprobs if one.end <= len(text)]  # none of calls
        list(self._grow(Piece(0, text, answer.calls, tuple(told))))
        list(self._end(answer.result))
        return self._ended(answer.result)

    async def chunks(self) -> AsyncIterator[dict[str, Any]]:
        """Raises Fault in mid-stream."""
        begun = {**self.head, "status": "in_progress", "incomplete_details": None, "output": []}
        yield self._event("response.created", response={**begun, "usage": None})
        yield self._event("response.in_progress", response={**begun, "usage": None})
        if self.ask.calling is None:
            for event in self._begin(_Item()):
                yield event
        async for piece in self.answers.pieces():
            for event in self._grow(piece):
                yield event
            if piece.result is not None:
                for event in self._end(piece.result):
                    yield event
                response = self._ended(piece.result)
                yield self._event(f"response.{response['status']}", response=response)

    def _grow(self, piece: Piece) -> Iterator[dict[str, Any]]:
        """What a piece adds: to the item that is open, or another one."""
        if piece.text:
            if not self.output or self.output[-1].name is not None:
                yield from self._begin(_Item())
            item, told = self.output[-1], self._logprobs(piece.logprobs)
            item.pieces.append(piece.text)
            item.logprobs += told
            yield self._event("response.output_text.delta", **self._place(), delta=piece.text,
                              logprobs=told)  # fmt: skip
        for part in piece.calls:
            if part.name is not None:
                yield from self._begin(_Item(part.name))
            if part.arguments:
                self.output[-1].pieces.append(part.arguments)
                yield self._event("response.function_call_arguments.delta", **self._place(),
                                  delta=part.arguments)  # fmt: skip

    def _begin(self, item: "_Item") -> Iterator[dict[str, Any]]:
        if self.output:
            yield from self._close("completed")
        self.output.append(item)
        begun, index = item.object("in_progress"), len(self.output) - 1
        if item.name is None:
            begun["content"] = []
        yield self._event("response.output_item.added", output_index=index, item=begun)
        if item.name is None:
            yield self._event("response.content_part.added", **self._place(), part=item.part())

    def _close(self, status: str) -> Iterator[dict[str, Any]]:
        item, place = self.output[-1], self._place()
        item.status = status
        if item.name is None:
            yield self._event("response.output_text.done", **place, text=item.text,
                              logprobs=item.logprobs)  # fmt: skip
            yield self._event("response.content_part.done", **place, part=item.part())
        else:
            yield self._event("response.function_call_arguments.done", **place, name=item.name,
                              arguments=item.text)  # fmt: skip
        index = len(self.output) - 1
        yield self._event("response.output_item.done", output_index=index, item=item.object(status))

    def _end(self, result: Result) -> Iterator[dict[str, Any]]:
        """Of the last item; a call is whole, also where the answer was cut behind it."""
        if not self.output:
            yield from self._begin(_Item())
        cut = result.finish_reason == "length" and self.output[-1].name is None
        yield from self._close("incomplete" if cut else "completed")

    def _place(self) -> dict[str, Any]:
        item = self.output[-1]
        place = {"item_id": item.id, "output_index": len(self.output) - 1}
        return place if item.name is not None else {**place, "content_index": 0}

    def _event(self, kind: str, **values: Any) -> dict[str, Any]:
        return {"type": kind, "sequence_number": next(self.numbers), **values}

    def _ended(self, result: Result) -> dict[str, Any]:
        cut = result.finish_reason == "length"
        read, made = self.answers.prompt_tokens, result.answer_tokens
        return {
            **self.head,
            "status": "incomplete" if cut else "completed",
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "output": [item.object(item.status) for item in self.output],
            "usage": {
                "input_tokens": read,
                "input_tokens_details": {"cached_tokens": result.cached_tokens},
                "output_tokens": made,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": read + made,
            },
        }

    def _logprobs(self, logprobs: Sequence[Said]) -> list[dict[str, Any]]:
        return logprobs_content(self.answers.model.engine.vocabulary, logprobs)


@dataclass
class _Item:
    """An item of the output: a message with its text, or with a name, a call with arguments."""

    name: str | None = None
    pieces: list[str] = field(default_factory=list)
    logprobs: list[dict[str, Any]] = field(default_factory=list)
    status: str = "completed"
    id: str = ""
    call: str = field(default_factory=lambda: new_id("call"))

    def __post_init__(self) -> None:
        self.id = new_id("msg" if self.name is None else "fc")

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    def part(self) -> dict[str, Any]:
        told = {"annotations": [], "logprobs": list(self.logprobs)}
        return {"type": "output_text", "text": self.text, **told}

    def object(self, status: str) -> dict[str, Any]:
        head = {"id": self.id, "status": status}
        if self.name is None:
            return {**head, "type": "message", "role": "assistant", "content": [self.part()]}
        told = {"call_id": self.call, "name": self.name, "arguments": self.text}
        return {**head, "type": "function_call", **told}


def _told(tool: Tool) -> dict[str, Any]:
    """A tool as a response repeats it."""
    description = tool.given["function"].get("description")
    told = {"name": tool.name, "description": description, "parameters": tool.parameters}
    return {"type": "function", **told, "strict": True}


def _choice(calling: Calling | None) -> Any:
    choice = calling.choice if calling is not None else "auto"
    return choice if choice in WORDS else {"type": "function", "name": choice}
