"""Chat templates: strangers' Jinja code, rendered in jinja2's immutable sandbox."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from llamacli.errors import InvalidModelError

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


def render(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    *,
    add_generation_prompt: bool = True,
    date: datetime | None = None,
    **names: Any,
) -> str:
    """The prompt's text. names are what templates expect besides: bos_token, tools and the like.

    Raises InvalidModelError where the template is broken, refuses, or oversteps the sandbox.
    """
    from jinja2 import TemplateError
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> NoReturn:
        raise InvalidModelError(f"the chat template refuses: {message}")

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = (date or datetime.now()).strftime
    try:
        return environment.from_string(template).render(
            messages=list(messages), add_generation_prompt=add_generation_prompt, **names
        )
    except (TemplateError, TypeError, ValueError, KeyError, OverflowError, RecursionError) as error:
        raise InvalidModelError(f"the chat template can't be rendered: {error}") from error


def _to_json(value: Any, indent: int | None = None, **options: Any) -> str:
    """Unlike jinja2's own, without HTML's escapes: what transformers gives templates."""
    return json.dumps(value, ensure_ascii=False, indent=indent, **options)
