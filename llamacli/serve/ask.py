"""What a request asks for, whatever API it came by."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from llamacli import engine as engines
from llamacli.answer import Calling
from llamacli.errors import InvalidModelError
from llamacli.prompt import Message, NoTools, encode_raw, encode_turns
from llamacli.serve.faults import Fault, invalid, unsupported
from llamacli.serve.fields import Fields, shown
from llamacli.shape import Grammar

MAX_TOKENS = 1 << 31
MAX_STOPS, MAX_STOP = 64, 1000  # texts; characters of one
MAX_CHOICES = 64
MAX_TOP = 20  # likeliest tokens with their probabilities, OpenAI's own limit


@dataclass(frozen=True)
class Ask:
    """Prompts (one of them, unless it is a completion's list), and how they are answered.

    A prompt is a conversation, a text, or tokens. n answers are given to each. lora has scales by
    the adapters' numbers, the others being out of use; None leaves it to the server's own. chat is
    a job's; progress asks for what is read of the prompt.
    """

    model: str | None
    prompts: Sequence[Sequence[Message] | str | list[int]]
    sampling: Mapping[str, Any] = field(default_factory=dict)
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    n: int = 1
    shape: Grammar | None = None
    calling: Calling | None = None
    logprobs: int | None = None
    stream: bool = False
    include_usage: bool = False
    ignored: tuple[str, ...] = ()
    special: bool = False
    exact: bool = False
    chat: str | None = None
    progress: bool = False
    lora: Mapping[int, float] | None = None

    def encode(
        self, engine: engines.Engine, prompt: Sequence[Message] | str | list[int]
    ) -> list[int]:
        """A prompt's tokens. Raises Fault where the model's template refuses the messages."""
        if isinstance(prompt, str):
            tokens = encode_raw(engine.vocabulary, prompt, special=self.special)
        elif prompt and isinstance(prompt[0], int):
            tokens = [_token(engine, token) for token in prompt]
        else:
            try:
                tools = [tool.given for tool in self.calling.tools] if self.calling else None
                tokens = encode_turns(engine, prompt, tools=tools)  # type: ignore[arg-type]
            except NoTools as error:
                raise Fault(400, str(error), "tools", "template_takes_no_tools") from None
            except InvalidModelError as error:
                raise Fault(400, str(error), "messages", "template_refuses") from None
        if not tokens:
            raise invalid("prompt", "has no tokens")
        return tokens

    def settings(self, engine: engines.Engine) -> engines.SamplingSettings:
        """The model's own settings where nothing else was asked for."""
        for token, _ in self.sampling.get("logit_bias", ()):
            _token(engine, token, "logit_bias")
        return engines.SamplingSettings.from_metadata(engine.file.metadata, **self.sampling)

    def scales(self, engine: engines.Engine) -> engines.Scales | None:
        """What the loaded adapters' products are times. Raises Fault for one that isn't there."""
        if self.lora is None:
            return None
        there = len(engine.adapters)
        for number in self.lora:
            if number >= there:
                raise invalid("lora", f"has the id {number}; the model has {there} adapters")
        return tuple(self.lora.get(number, 0.0) for number in range(there))


def _token(engine: engines.Engine, token: Any, where: str = "prompt") -> int:
    if isinstance(token, bool) or not isinstance(token, int):
        raise invalid(where, f"has tokens as whole numbers, not {shown(token)}")
    if not 0 <= token < engine.vocabulary.size:
        raise invalid(where, f"has the token {token}; the model knows {engine.vocabulary.size}")
    return token


def read_ask(fields: Fields, ignored: Iterable[str]) -> dict[str, Any]:
    """Ask's fields that all APIs name alike; ignored are those that change nothing here."""
    return {
        "model": fields.text("model"),
        "sampling": read_sampling(fields),
        "lora": _lora(fields),
        "stream": fields.flag("stream"),
        "ignored": tuple(fields.ignore(ignored)),
    }


def read_sampling(fields: Fields) -> dict[str, Any]:
    """SamplingSettings' fields by OpenAI's names and llama.cpp's; what isn't there is left out."""
    settings = {
        "temperature": fields.number("temperature", 0, 100),
        "top_p": fields.number("top_p", 0, 1),
        "top_k": fields.whole("top_k", 0, MAX_TOKENS - 1),
        "min_p": fields.number("min_p", 0, 1),
        "repeat_penalty": fields.number("repeat_penalty", 0.01, 100),
        "repeat_last_n": fields.whole("repeat_last_n", 0, engines.MAX_LAST_N),
        "presence_penalty": fields.number("presence_penalty", -2, 2),
        "frequency_penalty": fields.number("frequency_penalty", -2, 2),
        "seed": _seed(fields),
        "logit_bias": _logit_bias(fields),
    }
    return {name: value for name, value in settings.items() if value is not None}


def _seed(fields: Fields) -> int | None:
    """Any 64 bits, as OpenAI takes them; llama.cpp's samplers have 32."""
    seed = fields.whole("seed", -(1 << 63), (1 << 64) - 1)
    return None if seed is None else seed % (engines.MAX_SEED + 1)


def _logit_bias(fields: Fields) -> tuple[tuple[int, float], ...] | None:
    biases = fields.inside("logit_bias")
    if biases is None:
        return None
    pairs = []
    for name in list(biases.values):
        if not (name.isascii() and name.isdecimal() and len(name) < 10):
            raise invalid(biases.where(shown(name)[1:-1]), "is no token: give its number")
        pairs.append((int(name), biases.number(name, -100, 100) or 0.0))
    return tuple(pairs)


def _lora(fields: Fields) -> dict[int, float] | None:
    """The field lora as llama-server has it: objects with an adapter's id, and a scale."""
    if (listed := fields.objects("lora")) is None:
        return None
    scales: dict[int, float] = {}
    for given in listed:
        number = given.needed("id", partial(given.whole, least=0, most=engines.MAX_ADAPTERS - 1))
        if number in scales:
            raise invalid(given.where("id"), "is there already")
        scales[number] = read_scale(given)
    return scales


def read_scale(given: Fields) -> float:
    """What else an adapter's object has: what its product is times."""
    scale = given.number("scale", -engines.MAX_SCALE, engines.MAX_SCALE)
    given.end()
    return 1.0 if scale is None else scale


def read_stop(fields: Fields, name: str = "stop") -> tuple[str, ...]:
    value = fields.take(name)
    stops = [] if value is None else [value] if isinstance(value, str) else value
    where = fields.where(name)
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise invalid(where, f"is a text or a list of texts, not {shown(value)}")
    if len(stops) > MAX_STOPS:
        raise invalid(where, f"has {len(stops)} texts; at most {MAX_STOPS} are looked for")
    for i, stop in enumerate(stops):
        if not 0 < len(stop) <= MAX_STOP:
            raise invalid(f"{where}.{i}", f"has {len(stop)} characters; give 1 to {MAX_STOP}")
    return tuple(stops)


def refuse(fields: Fields, names: Mapping[str, str]) -> None:
    """Raises Fault 422 for a field that asks for what isn't there; names has what to do instead.

    A value that asks for nothing (false, "none", an empty list) is let through.
    """
    for name, instead in names.items():
        value = fields.take(name)
        if value not in (None, False, 0, "", "none", "auto", [], {}):
            raise unsupported(fields.where(name), instead)
