"""All chat templates of llama.cpp's source package, rendered as transformers renders them."""

import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Callable, Collection
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from llamacli.engine import Vocabulary
from llamacli.errors import InvalidModelError
from llamacli.prompt import encode_chat
from llamacli.prompt.environment import render_here
from llamacli.prompt.markers import Markers, within
from tests.test_prompt import conversations, read

ROOT = Path(__file__).resolve().parents[2]
MARKER = re.compile(r"<[|｜][^\s<>{}]+?[|｜]>|</?s>|\[/?[A-Z_]+\]|</?[a-z_]+>")
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The <b>weather</b>, in °C",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "a city"}},
            "required": ["city"],
        },
    },
}
CALL = {
    "id": "call00000",
    "type": "function",
    "function": {"name": "weather", "arguments": {"city": "Rôme"}},
}
THOUGHT = "<think>\nhm</think>\n\nYes."
CONVERSATIONS: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": "Hi <|eot_id|> é"}]},
    {
        "messages": [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": " Hi "},
            {"role": "assistant", "content": THOUGHT},
            {"role": "user", "content": "x"},
        ]
    },
    {"messages": [{"role": "user", "content": "Hi"}], "tools": [TOOL]},
    {
        "messages": [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "", "tool_calls": [CALL]},
            {"role": "tool", "content": "20", "name": "weather", "tool_call_id": "call00000"},
            {"role": "assistant", "content": "20 °C"},
            {"role": "user", "content": "y"},
        ],
        "tools": [TOOL],
    },
]


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The templates by name, from the source package that the lock names."""
    folder = tmp_path_factory.mktemp("source")
    lock = ROOT / "llama-cpp-python.lock"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder]
    # pip is this system's, whichever the tests have stood in for.
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([*command, "--require-hashes", "-r", lock], check=True, env=own)
    (package,) = folder.glob("*.tar.gz")
    by_name = {}
    with tarfile.open(package) as archive:
        for member in archive:
            path = Path(member.name)
            if path.match("models/templates/*.jinja") and (file := archive.extractfile(member)):
                by_name[path.stem] = file.read().decode()
    return by_name


def rendered(template: str, names: dict[str, Any], markers: Markers) -> tuple[str, list[str]]:
    """The text, and the markers that the template wrote; a refusal has none of either."""
    given = {
        "add_generation_prompt": True,
        "tools": None,
        "bos_token": markers.respell("<s>"),
        "eos_token": markers.respell("</s>"),
        **names,
    }
    spellings = sorted(within(markers, template).spellings)
    try:
        text = render_here(template, given, datetime.now().isoformat(), spellings, markers.plane)
    except InvalidModelError:
        return "", []
    written = markers.written
    return markers.plain(text), [written[part] for part in in_order(written, text)]


def in_order(spellings: Collection[str], text: str) -> list[str]:
    """Those that the text has, the longest first where several begin at a place."""
    longest_first = sorted(spellings, key=len, reverse=True)
    return re.findall("|".join(map(re.escape, longest_first)), text) if spellings else []


def test_templates_render_as_transformers_renders_them(templates: dict[str, str]) -> None:
    chat = pytest.importorskip("transformers.utils.chat_template_utils")
    assert len(templates) > 60
    refused = []
    for name, template in templates.items():
        markers = Markers(frozenset(MARKER.findall(template)))
        for number, conversation in enumerate(CONVERSATIONS):
            text, written = rendered(template, conversation, markers)
            try:
                (expected,), _ = chat.render_jinja_template(
                    [conversation["messages"]],
                    tools=conversation.get("tools"),
                    chat_template=template,
                    add_generation_prompt=True,
                    bos_token="<s>",
                    eos_token="</s>",
                )
            except Exception as error:
                refused.append(f"{name} {number}: {error}")
                expected = ""
            assert text == expected, (name, number)
            if "tools" in conversation:  # its texts spell no marker, so all are the template's
                assert written == in_order(markers.spellings, expected), (name, number)
    assert len(refused) < len(templates) / 3, refused


@pytest.mark.parametrize("name", ["Llama-3.1-8B", "Llama-3.2-3B", "Llama-3.3-70B"])
def test_conversations_with_tools_are_token_identical(
    name: str,
    templates: dict[str, str],
    real: Vocabulary,
    reference: Callable[[str], Any],
) -> None:
    template = templates[f"meta-llama-{name}-Instruct"]
    tokenizer = reference("Meta-Llama-3.1-8B-Instruct")
    source = conversations(11, tools=True)
    for _ in range(1000):
        given = next(source)
        expected = tokenizer.apply_chat_template(
            given["messages"],
            tools=given.get("tools"),
            chat_template=template,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=False,
        )
        messages = [m if isinstance(m["content"], dict) else read(m) for m in given["messages"]]
        assert encode_chat(real, template, messages, tools=given.get("tools")) == expected, given
