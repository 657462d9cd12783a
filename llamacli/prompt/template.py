"""Chat templates: strangers' Jinja code, rendered in jinja2's immutable sandbox.

The sandbox keeps a template from Python's insides, not from endless loops or gigabyte strings.
So a template that isn't among the known ones is rendered in a process of its own, with limits.
"""

import hashlib
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NoReturn

from llamacli.errors import InvalidModelError

if TYPE_CHECKING:
    from jinja2 import Template

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

# SHA-256 of templates that were read and found harmless: those save the process, 0.1 s a prompt.
KNOWN = frozenset(
    {
        hashlib.sha256(LLAMA3_TEMPLATE.encode()).hexdigest(),
        "9a72178d7dcff1cb10b34fe6d66541f870231fa9254f42d6052fc9e6766e0776",  # the demo's
        "ba03a121d097859c7b5b9cd03af99aafe95275210d2876f642ad9929a150f122",  # Meta-Llama-3
        "e10ca381b1ccc5cf9db52e371f3b6651576caee0a630b452e2816b2d404d4b65",  # Llama-3.1 and 3.3
        "5816fce10444e03c2e9ee1ef8a4a1ea61ae7e69e438613f3b17b69d0426223a4",  # Llama-3.2
    }
)
SECONDS = 2
MEMORY = 512 << 20  # bytes of address space
MAX_TEMPLATE = 1 << 20  # characters
MAX_PROMPT = 64 << 20  # bytes of JSON that a rendered prompt may take


def render(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    *,
    add_generation_prompt: bool = True,
    date: datetime | None = None,
    **names: Any,
) -> str:
    """The prompt's text. names are what templates expect besides: bos_token, tools and the like.

    Raises InvalidModelError where the template is broken, refuses, oversteps the sandbox, or takes
    more than 2 seconds or 512 MiB.
    """
    if len(template) > MAX_TEMPLATE:
        raise InvalidModelError(f"the chat template is absurdly long: {len(template)} characters")
    given = {**names, "messages": list(messages), "add_generation_prompt": add_generation_prompt}
    date = date or datetime.now()
    if _is_known(template):
        return render_here(template, given, date)
    return _render_apart(template, given, date)


def prepare(template: str) -> None:
    """Spare the next render most of its time: compile a known template, else start its process."""
    if _is_known(template):
        _compiled(template)
    else:
        _waiting.append(_start_worker())


def _is_known(template: str) -> bool:
    return hashlib.sha256(template.encode(errors="replace")).hexdigest() in KNOWN


def render_here(template: str, names: Mapping[str, Any], date: datetime) -> str:
    """The same in this process, without limits on time and memory."""
    from jinja2 import TemplateError

    try:
        return _compiled(template).render(strftime_now=date.strftime, **names)
    except InvalidModelError:
        raise
    except (TemplateError, ArithmeticError, LookupError, RecursionError) as error:
        raise _broken(error) from error
    except (AttributeError, TypeError, ValueError, MemoryError) as error:
        raise _broken(error) from error


@lru_cache(maxsize=4)
def _compiled(template: str) -> "Template":
    """Compiling takes longer than rendering, and a chat renders the same template each turn."""
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> NoReturn:
        raise InvalidModelError(f"the chat template refuses: {message}")

    class Environment(ImmutableSandboxedEnvironment):
        def unsafe_undefined(self, obj: Any, attribute: str) -> NoReturn:  # noqa: ARG002
            raise InvalidModelError(f"the chat template reaches for {attribute}: not allowed")

    environment = Environment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = refuse
    return environment.from_string(template)


def _broken(error: Exception) -> InvalidModelError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return InvalidModelError(f"the chat template can't be rendered: {reason[:300]}")


def _to_json(value: Any, indent: int | None = None, **options: Any) -> str:
    """Unlike jinja2's own, without HTML's escapes: what transformers gives templates."""
    return json.dumps(value, ensure_ascii=False, indent=indent, **options)


def _render_apart(template: str, names: Mapping[str, Any], date: datetime) -> str:
    request = json.dumps({"template": template, "names": names, "date": date.isoformat()})
    with _take_worker() as child:
        try:
            output, _ = child.communicate(request.encode(), timeout=SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            raise InvalidModelError(
                f"the chat template takes more than {SECONDS} seconds; it is broken or malicious"
            ) from None
        except BaseException:
            child.kill()
            raise
    try:
        if child.returncode or len(output) > MAX_PROMPT:
            raise ValueError
        answer = json.loads(output)
        text, error = answer["text"], answer["error"]
    except (ValueError, KeyError, TypeError):
        raise InvalidModelError(
            "the chat template takes too much time or memory; it is broken or malicious"
        ) from None
    if error is not None:
        raise InvalidModelError(str(error))
    return str(text)


def _take_worker() -> "subprocess.Popen[bytes]":
    """A process that waits for a request: one that prepare started, where it is still there."""
    while _waiting:
        worker = _waiting.pop()
        if worker.poll() is None:
            return worker
        with worker:
            pass  # closes its pipes
    return _start_worker()


def _start_worker() -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-I", "-c", WORKER, json.dumps(sys.path)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL)


_waiting: "list[subprocess.Popen[bytes]]" = []  # they end with this process, which closes stdin

# What the process does: limits on itself, the imports, then render_here.
WORKER = f"""
import json, sys
sys.path[:] = json.loads(sys.argv[1])
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, ({MEMORY}, {MEMORY}))
    resource.setrlimit(resource.RLIMIT_CPU, ({SECONDS}, {SECONDS}))
except (ImportError, ValueError, OSError):
    pass
from datetime import datetime
from llamacli.errors import InvalidModelError
from llamacli.prompt.template import render_here
import jinja2.ext, jinja2.sandbox
request = json.loads(sys.stdin.buffer.read())
text = error = None
try:
    text = render_here(
        request["template"], request["names"], datetime.fromisoformat(request["date"])
    )
except InvalidModelError as refusal:
    error = str(refusal)
sys.stdout.write(json.dumps({{"text": text, "error": error}}))
"""
