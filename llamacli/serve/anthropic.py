"""/v1/messages and its count_tokens: Anthropic's form of a conversation and its answer."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

from llamacli.answer import Result
from llamacli.prompt import Message, read_value
from llamacli.serve.answers import Answers, Whole
from llamacli.serve.ask import MAX_TOKENS, Ask, read_ask, read_stop, refuse
from llamacli.serve.faults import Fault, invalid, unsupported
from llamacli.serve.fields import Fields, objects
from llamacli.serve.messages import content_text, function_call, given_messages, part_text
from llamacli.serve.openai import check_shape, new_id, read_format_in
from llamacli.serve.pool import Loaded
from llamacli.serve.stream import Piece
from llamacli.serve.tools import read_block_calling
from llamacli.tools import CallPart

ROLES = ("user", "assistant", "system")

REFUSED = {"mcp_servers": "", "container": ""}
IGNORED = (
    "metadata", "service_tier", "context_management", "betas", "cache_control", "inference_geo",
    "speed", "diagnostics", "user_profile_id", "workspace_id",
)  # fmt: skip


def _refuse(fields: Fields) -> None:
    thinking = fields.inside("thinking")
    if thinking is not None and thinking.text("type") not in ("disabled", "adaptive"):
        raise unsupported("thinking")
    if fields.take("thread"):  # the client's runner of tools goes on without, told in this way
        told = {"error_code": "thread_unsupported_request", "unsupported": ["thread"]}
        raise Fault(400, "thread is not supported: nothing is stored", "thread",
                    "unsupported_parameter", details=told)  # fmt: skip
    refuse(fields, REFUSED)


def _conversation(fields: Fields) -> list[Message]:
    """The system's text first, then the messages' texts, calls and results."""
    messages: list[Message] = []
    if "system" in fields.values:
        messages.append({"role": "system", "content": content_text(fields, "system")})
    given = given_messages(fields)
    for message in given:
        messages += _read(message)
    if messages[-1]["role"] == "assistant":
        raise invalid(given[-1].path, "begins an answer, which is not supported")
    return messages


def _read(fields: Fields) -> list[Message]:
    """A message: its results, each as a message of its own, and its text with its calls."""
    role = fields.needed("role", lambda name: fields.one_of(name, ROLES))
    content, where = fields.values.get("content"), fields.where("content")
    if not isinstance(content, list):
        text = content_text(fields, "content")
        fields.end()
        return [{"role": role, "content": text}]
    fields.take("content")
    fields.end()
    texts, calls, results = list[str](), list[Message](), list[Message]()
    for block in objects(content, where):
        kind = block.values.get("type")
        if kind == "tool_use" and role == "assistant":
            calls.append(function_call(block, block.needed("id", block.text), "input"))
        elif kind == "tool_result" and role == "user":
            results.append(_result(block))
        else:
            texts.append(part_text(block))
    if calls:
        return [{"role": role, "content": "".join(texts) or None, "tool_calls": calls}]
    told = [{"role": role, "content": "".join(texts)}] if texts or not results else []
    return [*results, *told]


def _result(block: Fields) -> Message:
    identity = block.needed("tool_use_id", block.text)
    text = content_text(block, "content") if "content" in block.values else ""
    if block.flag("is_error"):
        text = f"Error: {text}"
    return {"role": "tool", "tool_call_id": identity, "content": text}


class MessageAnswer:
    """A message, whole or as events."""

    done = None

    @staticmethod
    def read(fields: Fields) -> Ask:
        """Raises Fault with the field's path."""
        prompt = _conversation(fields)
        limit = fields.needed("max_tokens", lambda name: fields.whole(name, 1, MAX_TOKENS))
        ask = Ask(
            prompts=[prompt],
            max_tokens=limit,
            stop=read_stop(fields, "stop_sequences"),
            shape=read_format_in(fields.inside("output_config"), "effort"),
            calling=read_block_calling(fields),
            **read_ask(fields, IGNORED),
        )
        _refuse(fields)
        fields.end()
        return check_shape(ask, "output_config")

    def __init__(self, ask: Ask, answers: Answers) -> None:
        self.ask, self.answers = ask, answers
        self.head = {
            "id": new_id("msg"),
            "type": "message",
            "role": "assistant",
            "model": answers.model.name,
        }

    def whole(self, answers: list[Whole]) -> dict[str, Any]:
        answer, content = answers[0], list[dict[str, Any]]()
        if answer.text.strip() or not answer.calls:
            content.append({"type": "text", "text": answer.text})
        for call in answer.calls:
            content.append({**_tool_use(call), "input": read_value(call.arguments)})
        result = answer.result
        return {**self.head, "content": content, **_ending(result), "usage": self._usage(result)}

    async def chunks(self) -> AsyncIterator[dict[str, Any]]:
        """Raises Fault in mid-stream."""
        start: dict[str, Any] = {"content": [], "stop_reason": None, "stop_sequence": None}
        usage = self._usage(None)
        yield {"type": "message_start", "message": {**self.head, **start, "usage": usage}}
        blocks = _Blocks()
        if self.ask.calling is None:
            yield blocks.begin({"type": "text", "text": ""})
        async for piece in self.answers.pieces():
            for event in blocks.events(piece):
                yield event
            if piece.result is not None:
                if blocks.count == 0:
                    yield blocks.begin({"type": "text", "text": ""})
                yield blocks.end()
                told = {"delta": _ending(piece.result), "usage": self._usage(piece.result)}
                yield {"type": "message_delta", **told}
        yield {"type": "message_stop"}

    def _usage(self, result: Result | None) -> dict[str, int]:
        """Tokens read anew, read from the cache, and written."""
        cached = result.cached_tokens if result is not None else 0
        return {
            "input_tokens": self.answers.prompt_tokens - cached,
            "cache_read_input_tokens": cached,
            "cache_creation_input_tokens": 0,
            "output_tokens": result.answer_tokens if result is not None else 0,
        }


def count_tokens(model: Loaded, fields: Fields) -> dict[str, Any]:
    """How many tokens the prompt of a request has, which needs no limit of its answer."""
    fields.values.setdefault("max_tokens", 1)
    ask = MessageAnswer.read(fields)
    return {"input_tokens": len(ask.encode(model.engine, ask.prompts[0]))}


@dataclass
class _Blocks:
    """A stream's blocks: how many have begun, and of what type the open one is."""

    count: int = 0
    open: str | None = None

    def events(self, piece: Piece) -> Iterator[dict[str, Any]]:
        """What a piece adds."""
        if piece.text:
            if self.open != "text":
                yield from self._next({"type": "text", "text": ""})
            yield self._delta({"type": "text_delta", "text": piece.text})
        for part in piece.calls:
            if part.name is not None:
                yield from self._next(_tool_use(part))
            if part.arguments:
                yield self._delta({"type": "input_json_delta", "partial_json": part.arguments})

    def begin(self, block: dict[str, Any]) -> dict[str, Any]:
        self.count, self.open = self.count + 1, block["type"]
        told = {"index": self.count - 1, "content_block": block}
        return {"type": "content_block_start", **told}

    def end(self) -> dict[str, Any]:
        self.open = None
        return {"type": "content_block_stop", "index": self.count - 1}

    def _next(self, block: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if self.open is not None:
            yield self.end()
        yield self.begin(block)

    def _delta(self, delta: dict[str, Any]) -> dict[str, Any]:
        return {"type": "content_block_delta", "index": self.count - 1, "delta": delta}


def _tool_use(call: CallPart) -> dict[str, Any]:
    return {"type": "tool_use", "id": new_id("toolu"), "name": call.name, "input": {}}


def _ending(result: Result) -> dict[str, Any]:
    if result.finish_reason == "tool_calls":
        return {"stop_reason": "tool_use", "stop_sequence": None}
    if result.finish_reason == "length":
        return {"stop_reason": "max_tokens", "stop_sequence": None}
    if result.stop_text is not None:
        return {"stop_reason": "stop_sequence", "stop_sequence": result.stop_text}
    return {"stop_reason": "end_turn", "stop_sequence": None}
