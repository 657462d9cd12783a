"""Chat templates: strangers' Jinja code, rendered in jinja2's immutable sandbox.

The sandbox keeps a template from Python's insides, not from endless loops or gigabyte strings.
So a template that isn't among the known ones is rendered in a process of its own, with limits.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from llamacli.errors import InvalidModelError
from llamacli.prompt.markers import Markers
from llamacli.prompt.worker import Worker

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
# One for the whole program, as llama.cpp's backend is: a chat's or a server's next prompt finds it.
WORKER = Worker()


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
    used = markers.within(template)
    spellings = sorted(used.spellings)
    if _is_known(template):
        return render_here(template, given, now, spellings, used.plane)
    return WORKER.render(
        {
            "template": template,
            "names": given,
            "date": now,
            "spellings": spellings,
            "plane": used.plane,
        }
    )


def prepare(template: str) -> None:
    """Spare the next render most of its time: import what it needs, or start its process."""
    if _is_known(template):
        from llamacli.prompt.environment import compiled

        compiled(template, Markers(frozenset(LLAMA3_MARKER.findall(template))))
    else:
        WORKER.start()


def _is_known(template: str) -> bool:
    return hashlib.sha256(template.encode(errors="replace")).hexdigest() in KNOWN


def render_here(
    template: str, names: Mapping[str, Any], date: str, spellings: Sequence[str], plane: int
) -> str:
    """The same in this process, without limits on time and memory; date is in ISO's format."""
    from jinja2 import TemplateError

    from llamacli.prompt.environment import compiled

    try:
        ready = compiled(template, Markers(frozenset(spellings), plane))
        return ready.render(strftime_now=datetime.fromisoformat(date).strftime, **names)
    except InvalidModelError:
        raise
    except (
        *(TemplateError, ArithmeticError, LookupError, RecursionError),
        *(AttributeError, TypeError, ValueError, MemoryError),
    ) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        fault = f"the chat template can't be rendered: {reason[:300]}"
        raise InvalidModelError(fault) from error
