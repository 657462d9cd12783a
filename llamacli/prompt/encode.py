"""Conversations to tokens: only the template's own markers become control tokens.

Chat templates are strangers' Jinja code, rendered in jinja2's immutable sandbox; one that isn't
among the known ones, in a process of its own.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

from llamacli.errors import InvalidModelError, UsageError
from llamacli.gguf import TEMPLATE_KEY, TOOL_TEMPLATE_KEY
from llamacli.prompt.markers import Markers, markers_of, within
from llamacli.prompt.messages import NO_PARAMETERS, Message, as_openai, one_call_each
from llamacli.prompt.worker import WORKER, Overstepped

if TYPE_CHECKING:
    from llamacli.engine import Vocabulary
    from llamacli.gguf import GGUFFile

# Llama 3's format, for files that have no template of their own.
LLAMA3_TEMPLATE = """\
{{- bos_token }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
    {{- message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

LLAMA3_MARKER = re.compile(r"<\|[a-z_]+\|>")
DATE_FORMAT = "%d %b %Y"  # of date_string, as the templates of Llama 3.1 to 3.3 write it

# SHA-256 of templates that were read and found harmless: those save the process, 0.1 s a prompt.
KNOWN = frozenset(
    {
        hashlib.sha256(LLAMA3_TEMPLATE.encode()).hexdigest(),
        "1c894b03ab64a5aeade85f937b1873139bfefd3a546284db088d2447601db4b5",  # the demo's
        "ba03a121d097859c7b5b9cd03af99aafe95275210d2876f642ad9929a150f122",  # Meta-Llama-3
        "e10ca381b1ccc5cf9db52e371f3b6651576caee0a630b452e2816b2d404d4b65",  # Llama-3.1 and 3.3
        "5816fce10444e03c2e9ee1ef8a4a1ea61ae7e69e438613f3b17b69d0426223a4",  # Llama-3.2
        "872be49dbb638044ad01b60388f48d469ff2980e5f0dccdc22ec907db54d0788",  # SmolLM2-Instruct
    }
)
MAX_TEMPLATE = 1 << 20  # characters

Form = tuple[Sequence[Mapping[str, Any]], Any, bool]  # messages, tools; see _forms


class Spelled(Protocol):
    """A model as far as its prompts go: what tells its template, and its tokens."""

    @property
    def file(self) -> "GGUFFile": ...

    @property
    def vocabulary(self) -> "Vocabulary": ...


class NoTools(UsageError):
    """The model's template has no place for what was given of tools."""


def encode_chat(
    vocabulary: "Vocabulary",
    template: str | None,
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    date: datetime | None = None,
) -> list[int]:
    """The tokens of a conversation's prompt, by Llama 3's format where there is no template.

    The template renders the messages as they are, its own markers respelled. The text is cut at
    those; what lies between is tokenized as plain text, whatever it looks like. Where the template
    refuses that, calls and tools go in as others want them (see _forms). Raises InvalidModelError
    where there is no template and no marker of Llama 3's, and NoTools where the template knows no
    tools and there are some, or calls.
    """
    if template is None:
        template = LLAMA3_TEMPLATE
        _check_llama3(vocabulary)
    _check_tools(template, messages, tools)
    given = json.dumps([template, messages, tools], ensure_ascii=False)
    markers = markers_of(vocabulary.special_tokens, given)
    if markers is None:
        raise UsageError("the messages hold characters of every unused plane of Unicode")
    used = within(markers, template)
    bos, eos = (_spelling(vocabulary, token) for token in (vocabulary.bos, vocabulary.eos))
    ends = Markers(markers.spellings & {bos, eos}, markers.plane)
    names = {"bos_token": ends.respell(bos), "eos_token": ends.respell(eos)}
    text = _render(template, _forms(messages, tools), {**names, "date": date, "markers": used})
    written = used.written | ends.written
    longest_first = map(re.escape, sorted(written, key=len, reverse=True))  # as Hugging Face cuts
    tokens: list[int] = []
    for i, part in enumerate(re.split(f"({'|'.join(longest_first)})", text) if written else [text]):
        if i % 2:
            tokens.append(vocabulary.special_tokens[written[part]])
        elif plain := markers.plain(part):
            tokens += vocabulary.tokenize(plain)
    # The one that the template writes stands where it wants it, be it behind a blank.
    if vocabulary.add_bos and vocabulary.bos is not None and vocabulary.bos not in tokens:
        tokens.insert(0, vocabulary.bos)
    return tokens


def _render(template: str, forms: Iterator[Form], names: Mapping[str, Any]) -> str:
    """The prompt's text, by the first form that the template takes, within its time and memory."""
    faults: list[InvalidModelError] = []
    for messages, tools, tried in forms:
        try:
            return render(template, messages, tools=tools, **names)
        except Overstepped:
            raise
        except InvalidModelError as error:
            faults += [] if faults and tried else [error]
    raise faults[-1]


def _forms(messages: Sequence[Mapping[str, Any]], tools: Any) -> Iterator[Form]:
    """A conversation and its tools as they are, then as templates want them that refuse that;
    whether such a template's refusal says nothing of what was given.

    Llama 3.1's to 3.3's take one call at a time: each goes in by itself, with its result. Hermes'
    and Functionary's want tools that are described, and the latter's 3.2 arguments as a text.
    """
    yield messages, tools, False
    apart = one_call_each(messages)
    if len(apart) > len(messages):
        yield apart, tools, False
    full = [_described(tool) for tool in tools or ()] or tools
    if full != tools:
        yield messages, full, True
    if any(message.get("tool_calls") for message in messages):
        yield [as_openai(dict(message)) for message in messages], full, True


def _described(tool: Mapping[str, Any]) -> dict[str, Any]:
    """The same with a description and parameters, if they are empty ones."""
    function = {"description": "", "parameters": NO_PARAMETERS, **tool["function"]}
    return {**tool, "function": function}


def encode_turns(
    model: Spelled,
    messages: Sequence[Message],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    date: datetime | None = None,
) -> list[int]:
    """The prompt's tokens by the model's own template, else by Llama 3's.

    Where there are tools, or calls, that is the one which some models have for them.
    """
    metadata = model.file.metadata
    template = metadata.get(TEMPLATE_KEY) or None
    if tools or any(message.get("tool_calls") for message in messages):
        template = metadata.get(TOOL_TEMPLATE_KEY) or template
    return encode_chat(model.vocabulary, template, messages, tools=tools, date=date)


def encode_raw(vocabulary: "Vocabulary", text: str, *, special: bool = False) -> list[int]:
    """Text as it stands, after one BOS where the model wants it."""
    tokens = vocabulary.tokenize(text, special=special)
    if vocabulary.add_bos and vocabulary.bos is not None and tokens[:1] != [vocabulary.bos]:
        tokens.insert(0, vocabulary.bos)
    return tokens


def _spelling(vocabulary: "Vocabulary", token: int | None) -> str:
    return "" if token is None else vocabulary.piece(token).decode(errors="replace")


def _check_llama3(vocabulary: "Vocabulary") -> None:
    missing = set(LLAMA3_MARKER.findall(LLAMA3_TEMPLATE)) - vocabulary.special_tokens.keys()
    if missing:
        raise InvalidModelError(
            f"the model has no chat template, and no {min(missing)} for Llama 3's format; it may "
            "be a base model: give it text as it stands, with run --raw"
        )


def _check_tools(template: str, messages: Sequence[Mapping[str, Any]], tools: Any) -> None:
    """Llama 3's first generation has no tools: its template would leave them, or calls, out."""
    if tools and "tools" not in template:
        raise NoTools(
            "the model's chat template takes no tools; describe them in the system prompt, or use "
            "a model of Llama 3.1 or later"
        )
    if "tool_calls" not in template and any(m.get("tool_calls") for m in messages):
        raise NoTools("the model's chat template takes no calls of tools (tool_calls)")


def render(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    *,
    add_generation_prompt: bool = True,
    date: datetime | None = None,
    markers: Markers = Markers(),  # noqa: B008
    **names: Any,
) -> str:
    """The prompt's text. names are what templates expect besides: bos_token, tools and the like.

    The literals of the template that markers names come respelled. A date is given to templates as
    they ask for it, by strftime_now or as date_string; without one it is today, and templates that
    read date_string have a day of their own. Raises InvalidModelError where the template is broken,
    refuses, oversteps the sandbox, or takes more than 2 seconds or 512 MiB.
    """
    if len(template) > MAX_TEMPLATE:
        raise InvalidModelError(f"the chat template is absurdly long: {len(template)} characters")
    given = {**names, "messages": list(messages), "add_generation_prompt": add_generation_prompt}
    if date is not None:
        given["date_string"] = date.strftime(DATE_FORMAT)
    now = (date or datetime.now()).isoformat()
    request: dict[str, Any] = {
        "template": template,
        "names": given,
        "date": now,
        "spellings": sorted(markers.spellings),
        "plane": markers.plane,
    }
    if _is_known(template):
        from llamacli.prompt.environment import render_here

        return render_here(**request)
    return WORKER.render(request)


def prepare(template: str) -> None:
    """Spare the next render most of its time: import what it needs, or start its process."""
    if _is_known(template):
        from llamacli.prompt.environment import compiled

        compiled(template, Markers(frozenset(LLAMA3_MARKER.findall(template))))
    else:
        WORKER.start()


def _is_known(template: str) -> bool:
    return hashlib.sha256(template.encode(errors="replace")).hexdigest() in KNOWN
