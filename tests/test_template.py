"""Templates from strangers: what Hugging Face's need works, what harms is refused."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import psutil
import pytest

from llamacli.errors import InvalidModelError
from llamacli.prompt import worker as rendering
from llamacli.prompt.encode import KNOWN, LLAMA3_TEMPLATE, prepare, render
from llamacli.prompt.environment import render_here
from llamacli.prompt.worker import WORKER
from tests.conftest import DEMO
from tests.standins.waiting import PATIENCE
from tests.systems import needs_signals

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


@pytest.fixture(scope="module", autouse=True)
def hasty() -> Iterator[None]:
    """A process with a second of processor time a prompt, in place of two."""
    usual, short = (f"limit_time({seconds})" for seconds in (rendering.SECONDS, 1))
    assert usual in rendering.CODE
    WORKER._end()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rendering, "CODE", rendering.CODE.replace(usual, short))
        yield
    WORKER._end()


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_templates_are_refused(kind: str) -> None:
    """Also those that never end or swell: rendering returns."""
    with pytest.raises(InvalidModelError, match="chat template"):
        render(HOSTILE[kind], HELLO, bos_token="<s>")


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
    assert render_here(template, names, date.isoformat(), (), 0) == expected


def test_refusal_by_the_template_is_told() -> None:
    with pytest.raises(InvalidModelError, match="refuses: no system role"):
        render("{{ raise_exception('no system role') }}", HELLO)


def test_default_template_is_llama_3s() -> None:
    assert render(LLAMA3_TEMPLATE, HELLO, bos_token="<|begin_of_text|>") == (
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHello<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )


def test_known_templates_are_the_real_ones(llama3_files: Path) -> None:
    for path in llama3_files.glob("*/tokenizer_config.json"):
        template = json.loads(path.read_text())["chat_template"]
        assert hashlib.sha256(template.encode()).hexdigest() in KNOWN


def test_the_demo_s_template_is_known() -> None:
    template = json.loads((DEMO / "tokenizer_config.json").read_text())["chat_template"]
    assert hashlib.sha256(template.encode()).hexdigest() in KNOWN


OWN = "{{ messages[0]['content'] | trim }}!"


def test_one_process_renders_prompt_after_prompt() -> None:
    prepare(OWN)
    process = WORKER.process
    assert process is not None
    for _ in range(3):
        assert render(OWN, HELLO) == "Hello!"
    with pytest.raises(InvalidModelError, match="refuses"):
        render("{{ raise_exception('no') }}", HELLO)
    assert WORKER.process is process and process.poll() is None


def test_a_process_that_overstepped_is_replaced() -> None:
    for kind in ("endless", "doubling"):
        with pytest.raises(InvalidModelError, match="chat template"):
            render(HOSTILE[kind], HELLO, bos_token="<s>")
        assert render(OWN, HELLO) == "Hello!"


def test_each_prompt_has_time_of_its_own() -> None:
    """The limit on processor time counts from the prompt on, not from the process's start."""
    template = "{% for i in range(90000) %}{% for j in range(30) %}{% endfor %}{% endfor %}done"
    for _ in range(12):
        assert render(template, HELLO) == "done"


def test_a_process_that_died_is_replaced() -> None:
    prepare(OWN)
    assert WORKER.process is not None
    WORKER.process.kill()
    WORKER.process.wait()
    assert render(OWN, HELLO) == "Hello!"


def test_limits_that_the_system_refuses_leave_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS refuses RLIMIT_AS; the one on processor time is set all the same."""
    pytest.importorskip("resource")
    refused = rendering.CODE.replace(
        f"limit_memory({rendering.MEMORY})",
        f"import resource; resource.RLIMIT_AS = -1; limit_memory({rendering.MEMORY})",
    )
    assert refused != rendering.CODE
    monkeypatch.setattr(rendering, "CODE", refused)
    own = rendering.Worker()
    with pytest.raises(InvalidModelError, match="too much time"):
        own.render({**REQUEST, "template": HOSTILE["endless"]})
    assert own.render(REQUEST) == "1"


REQUEST = {
    "template": "{{ 1 }}", "names": {}, "date": "2024-07-26", "spellings": [], "plane": 0,
}  # fmt: skip


@needs_signals
def test_ctrl_c_is_not_for_the_process() -> None:
    """Nor while it starts: it would be told as a template that takes too much."""
    script = (
        "import os, signal\n"
        "from llamacli.prompt.encode import WORKER, prepare, render\n"
        "signal.signal(signal.SIGINT, lambda *_: None)\n"
        "prepare('{{ 1 }}')\n"
        "first = WORKER.process\n"
        "os.killpg(0, signal.SIGINT)\n"
        "assert render('{{ 1 }}', []) == '1' and WORKER.process is first\n"
    )
    child = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, start_new_session=True
    )
    assert child.returncode == 0, child.stderr


def test_a_process_ends_with_the_one_that_started_it() -> None:
    script = (
        "from llamacli.prompt.encode import WORKER, prepare\n"
        "prepare('{{ 1 }}')\n"
        "print(WORKER.process.pid)\n"
    )
    child = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert child.returncode == 0 and child.stderr == ""
    with suppress(psutil.NoSuchProcess):
        worker = psutil.Process(int(child.stdout))
        assert worker.status() == psutil.STATUS_ZOMBIE or worker.wait(PATIENCE) is None


def test_what_is_prepared_is_what_is_rendered(tmp_path: Path) -> None:
    """A known template is compiled once: while the model loads, not again for its first prompt."""
    from llamacli.prompt import encode_chat
    from llamacli.prompt.environment import compiled
    from tests.standins.vocabulary import small_vocabulary

    vocabulary = small_vocabulary(tmp_path / "v.gguf")
    compiled.cache_clear()
    prepare(LLAMA3_TEMPLATE)
    encode_chat(vocabulary, LLAMA3_TEMPLATE, HELLO)
    assert compiled.cache_info().misses == 1 and compiled.cache_info().hits == 1


def test_what_training_marks_is_rendered() -> None:
    """{% generation %} says what of a conversation is learnt; its content stands as it is."""
    template = "{% for m in messages %}{% generation %}[{{ m.content | trim }}]{% endgeneration %}"
    assert render(template + "{% endfor %}", HELLO) == "[Hello]"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("", '{"b": "é", "a": [1, 2]}'),
        ("ensure_ascii=True", '{"b": "\\u00e9", "a": [1, 2]}'),
        ("ensure_ascii=False, sort_keys=True", '{"a": [1, 2], "b": "é"}'),
        ("indent=1", '{\n "b": "é",\n "a": [\n  1,\n  2\n ]\n}'),
        ("separators=(',', ':')", '{"b":"é","a":[1,2]}'),
    ],
)
def test_json_takes_transformers_arguments(options: str, expected: str) -> None:
    assert render(f"{{{{ {{'b': 'é', 'a': [1, 2]}} | tojson({options}) }}}}", HELLO) == expected


def test_a_date_takes_effect_however_templates_ask_for_it() -> None:
    """3.1 and 3.3 read date_string, 3.2 strftime_now; without a date they have their own."""
    reads = "{% if not date_string is defined %}{% set date_string = '26 Jul 2024' %}{% endif %}"
    date = datetime(2025, 2, 1)
    assert render(reads + "{{ date_string }}", HELLO, date=date) == "01 Feb 2025"
    assert render(reads + "{{ date_string }}", HELLO) == "26 Jul 2024"
    assert render("{{ strftime_now('%d %b %Y') }}", HELLO, date=date) == "01 Feb 2025"
