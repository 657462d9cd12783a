"""Messages from strangers: what templates read of them, and what is told of wrong ones."""

import json
from typing import Any

import pytest

from llamacli.errors import UsageError
from llamacli.prompt import read_messages

CALL = {"type": "function", "function": {"name": "f", "arguments": {"x": [1]}}}


def test_parts_calls_and_results_become_what_templates_read() -> None:
    given: list[dict[str, Any]] = [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": None, "tool_calls": [{**CALL, "id": "call_0"}]},
        {
            "role": "assistant",
            "tool_calls": [{"function": {"name": "f", "arguments": '{"x": [1]}'}}],
        },
        {"role": "tool", "content": "r", "name": "f", "tool_call_id": "call_0"},
        {"role": "ipython", "content": ""},
        {"role": "assistant", "content": "x", "tool_calls": None},
    ]
    assert read_messages(json.dumps(given), "m.json") == [
        {"role": "user", "content": "ab"},
        {"role": "assistant", "content": None, "tool_calls": [{**CALL, "id": "call_0"}]},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "r", "name": "f", "tool_call_id": "call_0"},
        {"role": "ipython", "content": ""},
        {"role": "assistant", "content": "x"},
    ]


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ({"role": "user", "content": None}, "no content and no tool_calls"),
        ({"role": "user", "content": 7}, "content that is not a text"),
        ({"role": "user", "content": [{"type": "image_url"}]}, "a part that is no"),
        ({"role": "user", "content": "x", "tool_calls": [CALL]}, "only an assistant calls"),
        ({"role": "critic", "content": "x"}, "none of system, user"),
        ({"role": "tool", "content": "x", "name": 7}, "a name that is not a text"),
        ({"role": "assistant", "tool_calls": {}}, "not a list"),
        ({"role": "assistant", "tool_calls": [{"function": {}}]}, "a call that is no"),
        ({"role": "assistant", "tool_calls": [{**CALL, "type": "code"}]}, "the type 'code'"),
        (
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "[1]"}}]},
            "calls f with arguments that are no JSON object",
        ),
        ({"role": "user", "content": "x", "extra": 1}, "unknown key 'extra'"),
    ],
)
def test_wrong_messages_are_named(message: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        read_messages(json.dumps([message]), "m.json")
