"""/own/answer: for run, chat and batch of the same user, by the Unix socket alone.

A request names the file that the program would load, and how that file looks; only a loaded model
with the same file answers. The answer is JSON lines: head, texts, and the result or an error.
"""

import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from llamacli.answer import Calling
from llamacli.engine import Engine
from llamacli.errors import UsageError
from llamacli.serve.answers import Answers
from llamacli.serve.ask import MAX_TOKENS, Ask, read_sampling, read_scale, read_stop
from llamacli.serve.faults import Fault, invalid
from llamacli.serve.fields import Fields
from llamacli.serve.listen import identity
from llamacli.serve.messages import read_messages
from llamacli.serve.openai import check_shape
from llamacli.serve.pool import Loaded, Pool
from llamacli.shape import Grammar, check_choices, read_shape
from llamacli.tools import check_tools

MAX_NAME = 1000  # characters of what tells a chat from others


def find_loaded(pool: Pool, fields: Fields) -> Loaded:
    """The loaded model of the file that a request names. Raises Fault 404 where there is none."""
    path = fields.needed("file", fields.text)
    seen = fields.needed("identity", fields.items)
    model = next((one for one in pool.loaded.values() if str(one.path) == path), None)
    with suppress(OSError):  # it is gone
        if model is not None and model.identity == seen == identity(model.path):
            return model
    raise Fault(404, "the model is not loaded", "file", "not_loaded")


def find_adapters(model: Loaded, fields: Fields) -> dict[int, float]:
    """The adapters that a request names by their files, and their scales; no others are in use.

    Raises Fault 404 where the model was loaded without one.
    """
    scales: dict[int, float] = {}
    loaded = [adapter.identity for adapter in model.engine.adapters]
    for given in fields.objects("adapters") or []:
        seen = given.needed("identity", given.items)
        if seen not in loaded:
            raise Fault(404, "the adapter is not loaded", given.where("identity"), "not_loaded")
        scales[loaded.index(seen)] = read_scale(given)
    return scales


def read_local(model: Loaded, fields: Fields, lora: dict[int, float]) -> Ask:
    """What is to be answered: messages, a text as it stands, or the tokens of a chat's prompt."""
    prompt: Any = fields.text("prompt")
    if prompt is None and (prompt := fields.items("tokens")) is not None:
        if not prompt or not all(isinstance(token, int) for token in prompt):
            raise invalid("tokens", "is a list of whole numbers, at least one")
    elif prompt is None:
        prompt = read_messages(fields)
    chat = fields.text("chat")
    if chat is not None and len(chat) > MAX_NAME:
        raise invalid("chat", f"has more than {MAX_NAME} characters")
    most = fields.whole("max_tokens", 1, MAX_TOKENS)
    ask = Ask(
        None,
        [prompt],
        read_sampling(fields),
        most,
        read_stop(fields),
        shape=_read_shape(fields.inside("shape"), model.engine, most),
        special=fields.flag("special"),
        exact=fields.flag("exact"),
        chat=chat,
        progress=fields.flag("progress"),
        lora=lora,
        calling=_read_calling(fields.inside("calling")),
    )
    fields.end()
    return check_shape(ask, "shape")


def _read_calling(given: Fields | None) -> Calling | None:
    """What the program read from its options; tools are in prompts as they were given."""
    if given is None:
        return None
    try:
        tools = check_tools(given.items("tools"))
    except UsageError as error:
        raise invalid(given.where("tools"), f"can't be used: {error}") from None
    choice, parallel = given.needed("choice", given.text), given.flag("parallel", True)
    threshold = given.number("threshold", 0, 1)
    given.end()
    return Calling(tools, choice, parallel, threshold)


def _read_shape(given: Fields | None, engine: Engine, most: int | None) -> Grammar | None:
    """What the program read from its options; its text was checked there."""
    if given is None:
        return None
    schema, grammar, words = (
        given.text("schema"),
        given.text("grammar"),
        given.items("choice") or [],
    )
    if not all(isinstance(word, str) for word in words):
        raise invalid(given.where("choice"), "is a list of texts")
    check_choices(words, engine.vocabulary, most or engine.context_size)
    return read_shape(schema=schema, grammar=grammar, choice=words)


def model_object(model: Loaded) -> dict[str, Any]:
    """What a client learns of a loaded model."""
    engine = model.engine
    about = {"model": engine.name, "quantization": engine.quantization}
    return {**about, "context": engine.context_size}


async def lines(answers: Answers) -> AsyncIterator[bytes]:
    """The answer's lines; calls stand in its texts as they are written."""
    engine = answers.model.engine
    head = {"model": engine.name, "quantization": engine.quantization}
    yield _line({"head": {**head, "prompt_tokens": answers.prompt_tokens}})
    async for piece in answers.stream:
        if piece.read is not None:
            yield _line({"read": piece.read})
        if piece.text:
            yield _line({"text": piece.text})
        if piece.error is not None:
            yield _line({"error": str(piece.error), "exit_code": piece.error.exit_code})
        elif piece.result is not None:
            fields = vars(piece.result).items()
            yield _line({"result": {name: value for name, value in fields if name != "drafted"}})


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\n"
