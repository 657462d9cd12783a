"""Templates from strangers: what Hugging Face's need works, what harms is refused in time."""

import subprocess
import sys
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import psutil
import pytest

from llamacli.errors import InvalidModelError
from llamacli.prompt import template as templates
from llamacli.prompt.template import KNOWN, LLAMA3_TEMPLATE, prepare, render, render_here

HELLO = [{"role": "user", "content": " Hello "}]

HOSTILE = {
    "attributes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals": "{{ raise_exception.__globals__ }}",
    "init": "{{ messages.__init__.__globals__['os'].system('true') }}",
    "mutation": "{{ messages.append(1) }}",
    "format": "{{ '{0.__class__.__mro__}'.format(1) }}",
    "endless": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "macro": "{% macro f(n) %}{{ f(n) }}{{ f(n) }}{% endmacro %}{{ f(1) }}",
    "gigabytes": "{{ 'x' * 9999999999 }}",
    "power": "{{ 9 ** 999999999 }}",
    "width": "{{ '%9999999999d' % 1 }}",
    "filter": "{{ 'x' | center(9999999999) }}",
    "doubling": "{% set ns = namespace(s='xx') %}{% for i in range(60) %}"
    "{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}",
    "include": "{% include '/etc/passwd' %}",
    "syntax": "{% for %}",
    "nesting": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "undefined call": "{{ open('/etc/passwd') }}",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_templates_are_refused_in_time(kind: str) -> None:
    started = time.monotonic()
    with pytest.raises(InvalidModelError, match="chat template"):
        render(HOSTILE[kind], HELLO, bos_token="<s>")
    assert time.monotonic() - started < 10  # 2 seconds, on a machine that isn't busy


def test_what_hugging_faces_templates_use() -> None:
    template = (
        "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m }}{% endfor %}"
        "{{ {'a': '<é>'} | tojson }}|{{ [1] | tojson(indent=2) }}|{{ strftime_now('%d %b %Y') }}\n"
        "{%- if tools is none %}none{% endif %}\n"
        "    {% set x = 1 %}\n"
        "end"
    )
    expected = '{"a": "<é>"}|[\n  1\n]|26 Jul 2024noneend'
    date = datetime(2024, 7, 26)
    assert render(template, HELLO, date=date, tools=None) == expected
    names = {"messages": HELLO, "tools": None}
    assert render_here(template, names, date) == expected


def test_refusal_by_the_template_is_told() -> None:
    with pytest.raises(InvalidModelError, match="refuses: no system role"):
        render("{{ raise_exception('no system role') }}", HELLO)


def test_default_template_is_llama_3s() -> None:
    assert render(LLAMA3_TEMPLATE, HELLO, bos_token="<|begin_of_text|>") == (
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHello<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )


def test_known_templates_are_the_real_ones(llama3_files: Path) -> None:
    import hashlib
    import json

    for path in llama3_files.glob("*/tokenizer_config.json"):
        template = json.loads(path.read_text())["chat_template"]
        assert hashlib.sha256(template.encode()).hexdigest() in KNOWN


OWN = "{{ messages[0]['content'] | trim }}!"


def test_a_process_that_waits_renders_the_next_prompt() -> None:
    prepare(OWN)
    (worker,) = templates._waiting
    assert render(OWN, HELLO) == "Hello!"
    assert worker.poll() == 0 and not templates._waiting


def test_a_process_that_waited_keeps_the_limits() -> None:
    prepare(HOSTILE["endless"])
    with pytest.raises(InvalidModelError, match="chat template"):
        render(HOSTILE["endless"], HELLO, bos_token="<s>")
    assert render(OWN, HELLO) == "Hello!"


def test_a_waiting_process_that_died_is_replaced() -> None:
    prepare(OWN)
    templates._waiting[0].kill()
    templates._waiting[0].wait()
    assert render(OWN, HELLO) == "Hello!"


def test_a_waiting_process_ends_with_the_one_that_started_it() -> None:
    script = (
        "from llamacli.prompt import template\n"
        "template.prepare('{{ 1 }}')\n"
        "print(template._waiting[0].pid)\n"
    )
    child = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert child.returncode == 0 and child.stderr == ""
    with suppress(psutil.NoSuchProcess):
        worker = psutil.Process(int(child.stdout))
        assert worker.status() == psutil.STATUS_ZOMBIE or worker.wait(10) is None
