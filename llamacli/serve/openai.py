"""What OpenAI's two APIs for text have in common: fields of a request, and parts of an answer."""

import json
import secrets
import time
from collections.abc import Sequence
from typing import Any

from llamacli.answer import Result
from llamacli.engine import Vocabulary
from llamacli.errors import LlamacliError
from llamacli.serve.ask import MAX_CHOICES, MAX_TOKENS, Ask, read_ask, read_stop
from llamacli.serve.faults import Fault, invalid
from llamacli.serve.fields import Fields
from llamacli.serve.logprobs import Said
from llamacli.shape import Grammar, read_schema

# Fields that OpenAI's clients send and that change nothing here: told in a header.
IGNORED = (
    "user", "store", "metadata", "service_tier", "prompt_cache_key",
    "prompt_cache_retention", "prompt_cache_options", "safety_identifier", "reasoning_effort",
    "verbosity", "moderation",
)  # fmt: skip
LIMITS = ("max_tokens", "max_completion_tokens")  # the lower one holds
FORMATS = ("text", "json_object", "json_schema")


def read_common(fields: Fields) -> dict[str, Any]:
    """Ask's fields that both APIs name alike."""
    options = fields.inside("stream_options")
    usage = False
    if options is not None:
        usage = options.flag("include_usage")
        options.ignore(["include_obfuscation"])
        options.end()
    limits = [fields.whole(name, 1, MAX_TOKENS) for name in LIMITS]
    return {
        **read_ask(fields, IGNORED),
        "max_tokens": min(filter(None, limits), default=None),
        "stop": read_stop(fields),
        "n": fields.whole("n", 1, MAX_CHOICES) or 1,
        "shape": read_format(fields.inside("response_format")),
        "include_usage": usage,
    }


def read_format(given: Fields | None) -> Grammar | None:
    """response_format's shape. Raises Fault for a schema that can't be honoured."""
    if given is None:
        return None
    kind = given.needed("type", lambda name: given.one_of(name, FORMATS))
    schema: Any = {"type": "object"}
    where = given.path
    if kind == "json_schema":
        inside = given.inside("json_schema") or given  # the Responses API has it flat
        where = inside.where("schema")
        schema = inside.needed("schema", lambda name: _object(inside, name))
        inside.ignore(["name", "description", "strict"])
        inside.end()
    given.end()
    if kind == "text":
        return None
    try:
        return read_schema(json.dumps(schema))
    except (LlamacliError, RecursionError) as error:
        raise Fault(422, f"{where}: {error}", where, "unsupported_schema") from None


def read_format_in(config: Fields | None, aside: str) -> Grammar | None:
    """The format that an object has, where aside, what it may have besides, changes nothing."""
    if config is None:
        return None
    shape = read_format(config.inside("format"))
    config.ignore([aside])
    config.end()
    return shape


def _object(fields: Fields, name: str) -> Any:
    value = fields.take(name)
    if value is None or isinstance(value, dict | bool):
        return value
    raise invalid(fields.where(name), "is a JSON Schema, an object")


def check_shape(ask: Ask, name: str = "response_format") -> Ask:
    """Raises Fault where a stop text would cut an answer that has a shape, and where the choice
    between a call and an answer can't be made, as both begin with a brace."""
    if ask.shape is not None and ask.calling is not None and ask.calling.choice == "auto":
        told = "goes with tools only where tool_choice is none or asks for a call"
        raise Fault(422, f"{name} {told}", name, "unsupported_parameter")
    if ask.shape is not None and ask.stop:
        raise Fault(422, f"stop would cut an answer that {name} keeps whole", "stop")
    return ask


def head(prefix: str, kind: str, model: str) -> dict[str, Any]:
    """What an answer's objects, whole or chunks, have alike."""
    return {
        "id": new_id(prefix), "object": kind, "created": int(time.time()), "model": model,
        "system_fingerprint": None,
    }  # fmt: skip


def new_id(prefix: str) -> str:
    return f"{prefix}-{secrets.token_urlsafe(18)}"


def usage(prompt_tokens: int, results: Sequence[Result]) -> dict[str, Any]:
    """OpenAI's usage: a prompt counts once, however many answers it has."""
    made = sum(result.answer_tokens for result in results)
    cached = min((result.cached_tokens for result in results[:1]), default=0)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": made,
        "total_tokens": prompt_tokens + made,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def logprobs_content(vocabulary: Vocabulary, logprobs: Sequence[Said]) -> list[dict[str, Any]]:
    """As chat completions have them: text, bytes, the likeliest beside."""

    def told(piece: bytes, logprob: float) -> dict[str, Any]:
        return {
            "token": piece.decode(errors="replace"),
            "logprob": bounded(logprob),
            "bytes": list(piece),
        }

    return [
        {
            **told(one.piece, one.chosen.logprob),
            "top_logprobs": [told(vocabulary.piece(t), p) for t, p in one.chosen.top],
        }
        for one in logprobs
    ]


def bounded(logprob: float) -> float:
    """JSON has no infinity; OpenAI tells -9999 for what can't be."""
    return max(logprob, -9999.0)
