"""Tools: definitions checked, calls read in every form, whole, in pieces, cut and damaged."""

import json
import random

import pytest

from llamacli.errors import UsageError
from llamacli.prompt import problem
from llamacli.tools import Call, Reader, check_tools, message_of, read_answer, read_tools
from tests.standins.calls import CALLS, NAMES, TEXTS


def fed(pieces: list[str]) -> tuple[str, list[Call], list[str]]:
    """The text, the calls, and what went out after each piece."""
    reader = Reader(NAMES)
    out = [reader.feed(piece) for piece in pieces]
    return "".join(out) + reader.finish(), reader.calls, out


@pytest.mark.parametrize("kind", CALLS)
def test_calls_are_read_whole_and_at_every_split(kind: str) -> None:
    text, shown, calls = CALLS[kind]
    expected = [Call(name, arguments) for name, arguments in calls]
    assert read_answer(text, NAMES) == (shown, expected)
    splits = [[text[:i], text[i:]] for i in range(len(text) + 1)]
    for pieces in (*splits, list(text), [text[i : i + 3] for i in range(0, len(text), 3)]):
        found, read, out = fed(pieces)
        assert (found, read) == (shown, expected), pieces
        assert shown.startswith("".join(out))  # nothing of a call goes out, not for a moment


@pytest.mark.parametrize("text", TEXTS)
def test_what_only_looks_like_a_call_stays_text(text: str) -> None:
    assert read_answer(text, NAMES) == (text, [])
    step = max(1, len(text) // 50)
    for pieces in ([text[:i], text[i:]] for i in range(0, len(text), step)):
        assert fed(pieces)[:2] == (text, [])


def test_text_goes_out_at_once() -> None:
    """What can't be a call any more isn't held: JSON that was asked for streams as text does."""
    for text in ("Hello, you {there} [x]", '{"city": "Paris"}', "[1, 2, 3]", "[a link](x)"):
        out = fed(list(text))[2]
        assert "".join(out) == text
        assert all(out[i] for i in range(12, len(text)))
    assert fed(['{"name": "Ad', "a"])[2] == ['{"name": "Ad', "a"]


@pytest.mark.parametrize("kind", CALLS)
def test_a_call_that_is_cut_is_none(kind: str) -> None:
    """A call, or a text: never half a call, whose arguments are missing."""
    text, _, calls = CALLS[kind]
    expected = [Call(name, arguments) for name, arguments in calls]
    for end in range(len(text)):
        _, found = read_answer(text[:end], NAMES, cut=True)
        assert found == expected[: len(found)], text[:end]


def test_damaged_calls_are_calls_or_text() -> None:
    rng = random.Random(3)
    signs = "{}[]()\"'\\,:; <>|=\n\0\u2028é" + "".join(NAMES)
    for text, _, _ in CALLS.values():
        for _ in range(300):
            damaged = list(text)
            for _ in range(rng.randint(1, 4)):
                place = rng.randrange(len(damaged))
                damaged[place : place + rng.randint(0, 2)] = rng.choices(signs, k=rng.randint(0, 2))
            shown, calls = read_answer("".join(damaged), NAMES)
            assert all(call.name in NAMES and isinstance(call.arguments, dict) for call in calls)
            json.dumps([call.arguments for call in calls], allow_nan=False)
            cut = rng.randrange(len(damaged) + 1)
            pieces = ["".join(damaged[:cut]), "".join(damaged[cut:])]
            assert fed(pieces)[:2] == (shown, calls)


def test_a_message_of_calls_is_one() -> None:
    message = message_of([Call("weather", {"city": "Paris"})], first=3)
    assert problem(message) is None
    assert message["tool_calls"][0]["id"] == "call_3" and message["content"] is None


GOOD = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def test_tools_are_read_as_openai_writes_them() -> None:
    (tool,) = read_tools(json.dumps([GOOD]), "tools.json")
    assert (tool.name, tool.given) == ("f", GOOD)
    (bare,) = check_tools([{"type": "function", "function": {"name": "now"}}])
    assert bare.parameters == {"type": "object", "properties": {}}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("{", "not JSON"),
        ("{}", "list of"),
        ("[]", "list of"),
        ('[{"type": "code"}]', "tool 1 is no"),
        ('[{"type": "function"}]', "tool 1 has no function"),
        ('[{"function": {"name": "a b"}}]', "tool 1 has no name"),
        ('[{"function": {"name": "<|eot_id|>"}}]', "tool 1 has no name"),
        ('[{"function": {"name": "f"}}, {"function": {"name": "f"}}]', "two tools are called f"),
        ('[{"function": {"name": "f", "description": 1}}]', "description of f"),
        ('[{"function": {"name": "f", "parameters": []}}]', "parameters of f"),
        ('[{"function": {"name": "f", "parameters": {"type": "array"}}}]', "parameters of f"),
        (
            '[{"function": {"name": "f", "parameters": {"properties": {"x": {"type": "y"}}}}}]',
            "parameters of f",
        ),
    ],
)
def test_wrong_tools_are_named(given: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        read_tools(given, "tools.json")
