"""Chat templates: strangers' Jinja code, rendered in jinja2's immutable sandbox.

The sandbox keeps a template from Python's insides, not from endless loops or gigabyte strings.
So a template that isn't among the known ones is rendered in a process of its own, with limits.
"""

import hashlib
import json
import re
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import IO, Any

from llamacli.errors import InvalidModelError, reason
from llamacli.prompt.markers import Markers

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
# Of the process for templates that nobody has read.
SECONDS = 2  # of processor time a prompt
PATIENCE = 20  # seconds on the clock; a busy machine may need more than SECONDS
START = 120  # seconds for Python to start in, before any of the template's time
MEMORY = 512 << 20  # bytes of address space
MAX_PROMPT = 64 << 20  # bytes of JSON that a rendered prompt may take
SIZE = 8  # bytes of the length in front of each request and answer
OVERSTEPPED = "the chat template takes too much time or memory; it is broken or malicious"


@dataclass
class Worker:
    """A process that renders one prompt after another, if one runs, for one thread after another.

    After a limit was overstepped, or where it died, the next prompt gets a new one. It ends with
    the process that started it.
    """

    process: "subprocess.Popen[bytes] | None" = None
    ready: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def start(self) -> None:
        """Have a process that gets ready while something else is done."""
        with self._lock:
            self._start()

    def render(self, request: Mapping[str, Any]) -> str:
        """The rendered prompt; raises InvalidModelError as render_here does, or for the limits."""
        with self._lock:
            self._start()
            try:
                answer = json.loads(self._ask(json.dumps(request).encode()))
                text, error = answer["text"], answer["error"]
            except BaseException as problem:
                self._end()
                if isinstance(problem, OSError | ValueError | KeyError | TypeError):
                    raise InvalidModelError(OVERSTEPPED) from None
                raise
        if error is not None:
            raise InvalidModelError(str(error))
        return str(text)

    def _start(self) -> None:
        if self.process is not None and self.process.poll() is None:
            return
        self._end()
        command = [sys.executable, "-I", "-c", CODE, json.dumps(sys.path)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL)

    def _end(self) -> None:
        process, self.process, self.ready = self.process, None, False
        if process is not None:
            process.kill()
            with process:
                pass  # closes its pipes

    def _ask(self, request: bytes) -> bytes:
        """The answer's bytes. Raises OSError where the process ends over it."""
        process = self.process
        assert process is not None and process.stdin is not None and process.stdout is not None
        if not self.ready:
            self._within(START, process.stdout, SIZE)
            self.ready = True
        process.stdin.write(len(request).to_bytes(SIZE, "big") + request)
        process.stdin.flush()
        size = int.from_bytes(self._within(PATIENCE, process.stdout, SIZE), "big")
        if size > MAX_PROMPT:
            raise ValueError(size)
        return self._within(PATIENCE, process.stdout, size)

    def _within(self, seconds: float, source: IO[bytes], size: int) -> bytes:
        """That many bytes of the process, which is killed if they take longer."""
        assert self.process is not None
        timer = threading.Timer(seconds, self.process.kill)
        timer.daemon = True
        timer.start()
        try:
            data = source.read(size)
        finally:
            timer.cancel()
        if len(data) < size:
            raise OSError("the process ended")
        return data


# What the process does: imports, then for each request new limits on its time, and render_here.
CODE = f"""
import json, signal, sys
sys.path[:] = json.loads(sys.argv[1])
signal.signal(signal.SIGINT, signal.SIG_IGN)
from llamacli.errors import InvalidModelError
from llamacli.prompt.template import render_here
from llamacli.system import limit_memory, limit_time
import jinja2.ext, jinja2.sandbox, llamacli.prompt.environment

def send(data):
    sys.stdout.buffer.write(len(data).to_bytes({SIZE}, "big") + data)
    sys.stdout.buffer.flush()

limit_memory({MEMORY})
sys.stdout.buffer.write(bytes({SIZE}))
sys.stdout.buffer.flush()
while size := int.from_bytes(sys.stdin.buffer.read({SIZE}), "big"):
    request = json.loads(sys.stdin.buffer.read(size))
    limit_time({SECONDS})
    text = error = None
    try:
        text = render_here(**request)
    except InvalidModelError as refusal:
        error = str(refusal)
        if isinstance(refusal.__cause__, MemoryError):
            sys.exit()
    del request
    send(json.dumps({{"text": text, "error": error}}).encode())
    del text
"""

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
        fault = f"the chat template can't be rendered: {reason(error)[:300]}"
        raise InvalidModelError(fault) from error
