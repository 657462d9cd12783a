"""/v1/messages and its count_tokens: Anthropic's form of a conversation and its answer."""

from collections.abc import AsyncIterator
from typing import Any

from llamacli.answer import Result
from llamacli.serve.answers import Answers, Whole
from llamacli.serve.ask import MAX_TOKENS, Ask, read_lora, read_sampling, read_stop, refuse
from llamacli.serve.chat import content_text
from llamacli.serve.faults import as_fault, invalid
from llamacli.serve.fields import Fields, shown
from llamacli.serve.openai import check_shape, new_id, read_format
from llamacli.serve.pool import Loaded
from llamacli.shape import Grammar

REFUSED = {"tools": " yet", "tool_choice": " yet", "mcp_servers": "", "container": ""}
IGNORED = (
    "metadata", "service_tier", "context_management", "betas", "cache_control", "inference_geo",
    "speed", "diagnostics", "user_profile_id",
)  # fmt: skip


def read_message(fields: Fields) -> Ask:
    """Raises Fault with the field's path."""
    prompt = _conversation(fields)
    limit = fields.needed("max_tokens", lambda name: fields.whole(name, 1, MAX_TOKENS))
    ask = Ask(
        fields.text("model"),
        [prompt],
        read_sampling(fields),
        limit,
        read_stop(fields, "stop_sequences"),
        shape=_read_format(fields.inside("output_config")),
        lora=read_lora(fields),
        stream=bool(fields.flag("stream")),
        ignored=tuple(fields.ignore(IGNORED)),
    )
    _refuse_thinking(fields)
    refuse(fields, REFUSED)
    fields.end()
    return check_shape(ask)


def count_tokens(model: Loaded, fields: Fields) -> dict[str, Any]:
    """How many tokens the conversation's prompt has."""
    prompt = _conversation(fields)
    fields.ignore(IGNORED)
    _refuse_thinking(fields)
    refuse(fields, REFUSED)
    fields.end()
    return {"input_tokens": len(Ask(None, [prompt]).encode(model.engine, prompt))}


def _read_format(config: Fields | None) -> Grammar | None:
    """output_config's form of an answer; an effort changes nothing."""
    if config is None:
        return None
    shape = read_format(config.inside("format"))
    config.ignore(["effort"])
    config.end()
    return shape


def _refuse_thinking(fields: Fields) -> None:
    thinking = fields.inside("thinking")
    if thinking is not None and thinking.text("type") not in ("disabled", "adaptive"):
        refuse(Fields({"thinking": True}, fields.path), {"thinking": ""})


def _conversation(fields: Fields) -> list[dict[str, str]]:
    """The system's text first, then the messages' roles and texts."""
    messages = []
    if "system" in fields.values:
        messages.append({"role": "system", "content": content_text(fields, "system")})
    given = fields.needed("messages", fields.items)
    if not given:
        raise invalid("messages", "is empty")
    for i, message in enumerate(given):
        where = f"messages.{i}"
        if not isinstance(message, dict):
            raise invalid(where, f"is an object with role and content, not {shown(message)}")
        inside = Fields(message, where)
        role = inside.one_of("role", ("user", "assistant", "system"))
        if role is None:
            raise invalid(f"{where}.role", "is missing")
        messages.append({"role": role, "content": content_text(inside, "content")})
        inside.end()
    if messages[-1]["role"] == "assistant":
        raise invalid(f"messages.{len(given) - 1}", "begins an answer, which is not supported")
    return messages


class MessageAnswer:
    """A message, whole or as events."""

    done = None

    def __init__(self, ask: Ask, answers: Answers) -> None:
        self.ask, self.answers = ask, answers
        self.head = {
            "id": new_id("msg"),
            "type": "message",
            "role": "assistant",
            "model": answers.model.name,
        }

    def whole(self, answers: list[Whole]) -> dict[str, Any]:
        result = answers[0].result
        assert result is not None
        content = [{"type": "text", "text": answers[0].text}]
        return {**self.head, "content": content, **_ending(result), "usage": self._usage(result)}

    async def chunks(self) -> AsyncIterator[dict[str, Any]]:
        """Raises Fault in mid-stream."""
        start: dict[str, Any] = {"content": [], "stop_reason": None, "stop_sequence": None}
        usage = self._usage(None)
        yield {"type": "message_start", "message": {**self.head, **start, "usage": usage}}
        block = {"type": "text", "text": ""}
        yield {"type": "content_block_start", "index": 0, "content_block": block}
        async for piece in self.answers.stream:
            if piece.error is not None:
                raise as_fault(piece.error)
            if piece.text:
                delta = {"type": "text_delta", "text": piece.text}
                yield {"type": "content_block_delta", "index": 0, "delta": delta}
            if piece.result is not None:
                yield {"type": "content_block_stop", "index": 0}
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


def _ending(result: Result) -> dict[str, Any]:
    if result.finish_reason == "length":
        return {"stop_reason": "max_tokens", "stop_sequence": None}
    if result.stop_text is not None:
        return {"stop_reason": "stop_sequence", "stop_sequence": result.stop_text}
    return {"stop_reason": "end_turn", "stop_sequence": None}
