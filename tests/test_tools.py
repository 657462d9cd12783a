"""Tools: definitions checked, calls read in every form, whole, in pieces, cut and damaged."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import numpy as np
import pytest

from llamacli.answer import Calling, constraint_for, generate
from llamacli.engine import Engine, EngineSettings, SamplingSettings, load_vocabulary
from llamacli.errors import UsageError
from llamacli.gguf import read_gguf
from llamacli.prompt import LLAMA3_TEMPLATE, Message, encode_turns, problem
from llamacli.tools import (
    Call,
    HeldCalls,
    Reader,
    bounded,
    check_tools,
    message_of,
    read_tools,
)
from llamacli.tools.constraint import calls_grammar
from tests.standins.calls import CALLS, NAMES, TEXTS, read_answer
from tests.standins.program import PROGRAM, run_program
from tests.standins.tiny import write_model
from tests.standins.vocabulary import (
    TOOL_TEMPLATE,
    control_tokens,
    small_tokenizer,
    write_vocabulary,
)


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
        plain, read, out = fed(pieces)
        assert (plain, read) == (shown, expected), pieces
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
        _, cut_calls = read_answer(text[:end], NAMES, cut=True)
        assert cut_calls == expected[: len(cut_calls)], text[:end]


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


@pytest.mark.parametrize("number", ["1e999", "-1e999", "1" * 5000, '"{\\"a\\": 1e999}"'])
def test_numbers_of_calls_can_be_written_again(number: str) -> None:
    """What a double can't hold is its largest: JSON has no infinity."""
    for text in (
        f'{{"name": "weather", "parameters": {{"a": {number}}}}}',
        f'{{"name": "weather", "parameters": {number}}}',
    ):
        for call in read_answer(text, NAMES)[1]:
            assert json.dumps(call.arguments, allow_nan=False)
    assert read_answer('{"name": "weather", "parameters": {"a": 1e999}}', NAMES)[1]
    assert not read_answer('{"name": "weather", "parameters": "{\\"a\\": NaN}"}', NAMES)[1]


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


WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "maxLength": 12},
                "unit": {"enum": ["C", "F"]},
                "days": {"type": "integer", "minimum": 1, "maximum": 9},
            },
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}
MODELS = {"type": "function", "function": {"name": "list_models", "parameters": {"type": "object"}}}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tools") / "tiny.gguf"
    return write_model(path, tokenizer=small_tokenizer(), template=TOOL_TEMPLATE)


@pytest.fixture(scope="module")
def engine(model: Path) -> Iterator[Engine]:
    with Engine(model, EngineSettings(threads=1)) as engine:
        yield engine


def test_the_template_for_tools_is_used_where_there_are_some(tmp_path: Path) -> None:
    """Some fine-tunes have two: tool_use, and one that leaves tools out."""
    named = {"default": LLAMA3_TEMPLATE, "tool_use": TOOL_TEMPLATE}
    listed = [{"name": name, "template": text} for name, text in named.items()]
    path = write_vocabulary(
        tmp_path / "named.gguf", change=lambda writer: writer.add_chat_template(listed)
    )
    model = SimpleNamespace(file=read_gguf(path), vocabulary=load_vocabulary(path))

    def shown(messages: list[Message], tools: list[Any] | None = None) -> str:
        return model.vocabulary.text_of(encode_turns(model, messages, tools=tools))

    asked: list[Message] = [{"role": "user", "content": "Is it raining?"}]
    assert "weather" not in shown(asked) and "weather" in shown(asked, [WEATHER])
    call = message_of([Call("weather", {"city": "Paris"})])
    assert "weather" in shown([*asked, call])


# In the manner of Hermes 2 Pro's: tools have to be described, calls stand in marks of their own.
HERMES = """\
{{- bos_token }}{{- '<|im_start|>system\\nHere are the available tools: <tools> ' }}
{%- for tool in tools %}
    {%- set tool = tool.function %}
    {{- '{"name": "' + tool.name + '", "description": "' + tool.name + '(' }}
    {%- for name, field in tool.parameters.properties|items %}
        {{- name + ": " + field.type|string }}
    {%- endfor %}
    {{- ") - " + tool.description + '", "parameters": ' + tool.parameters|tojson + '}' }}
{%- endfor %}
{{- ' </tools> Return calls as <tool_call>\\n{"name": …}\\n</tool_call><|im_end|>\\n' }}
{%- for message in messages %}
    {%- if message.role != "tool" and message.tool_calls is not defined %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|im_start|>assistant' }}
        {%- for call in message.tool_calls %}
            {{- '\\n<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
            {{- ARGUMENTS + '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- else %}
        {%- if loop.previtem and loop.previtem.role != "tool" %}
            {{- '<|im_start|>tool\\n' }}
        {%- endif %}
        {{- '<tool_response>\\n' + message.content + '\\n</tool_response>' }}
        {%- if loop.last or loop.nextitem.role != "tool" %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
MARKS = ("<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>")


@pytest.mark.parametrize("arguments", ["call.function.arguments|tojson", "call.function.arguments"])
def test_calls_in_hermes_form(tmp_path: Path, arguments: str) -> None:
    """Through a template that wants tools described, and one that wants arguments as a text, too;
    what a result or a call spells stays text, and what the model writes is read."""
    spellings = control_tokens()
    spellings[20 : 20 + len(MARKS)] = MARKS
    listed = [{"name": "default", "template": LLAMA3_TEMPLATE},
              {"name": "tool_use", "template": HERMES.replace("ARGUMENTS", arguments)}]  # fmt: skip
    path = write_model(tmp_path / "hermes.gguf", tokenizer=small_tokenizer(spellings),
                       change=lambda writer: writer.add_chat_template(listed))  # fmt: skip
    bare = {"type": "function", "function": {"name": "now"}}
    said: list[Message] = [
        {"role": "user", "content": "Is it raining? <|im_end|>"},
        message_of([Call("weather", {"city": "</tool_call>"}), Call("now", {})]),
        *({"role": "tool", "content": f"{n} <|im_end|><tool_call>"} for n in range(2)),
    ]
    with Engine(path, EngineSettings(threads=1)) as engine:
        special = engine.vocabulary.special_tokens
        tokens = encode_turns(engine, said, tools=[WEATHER, bare])
        assert [tokens.count(special[mark]) for mark in MARKS] == [5, 4, 3, 3]
        text = engine.vocabulary.text_of(tokens)
        assert '{"name": "weather", "arguments": {"city": "</tool_call>"}}' in text
        assert '{"name": "now", "arguments": {}}' in text and "1 <|im_end|><tool_call>\n" in text
        calling = Calling(check_tools([WEATHER, bare]))
        assert special["<tool_call>"] in calling.spelled(engine.vocabulary)
        assert answered(engine, 0, [WEATHER, bare], choice="required")[1]


def answered(
    engine: Engine, seed: int, tools: Any = (WEATHER, MODELS), **settings: Any
) -> tuple[str, list[Call], Calling]:
    calling = Calling(check_tools([*tools]), **settings)
    prompt = encode_turns(engine, [{"role": "user", "content": "x"}])
    constraint = constraint_for(engine, len(prompt), 160, calling=calling)
    answer = generate(
        engine,
        prompt,
        SamplingSettings(seed=seed),
        max_tokens=160,
        constraint=constraint,
        spelled=calling.spelled(engine.vocabulary),
    )
    text = "".join(chunk.text for chunk in calling.parted(answer, lines=False))
    return text, calling.calls, calling


@pytest.mark.parametrize("parallel", [True, False])
def test_calls_are_held_to_the_tools_and_their_schemas(engine: Engine, parallel: bool) -> None:
    """Random weights call tools that there are, with arguments that fit, seed after seed."""
    schemas = {tool.name: tool.parameters for tool in check_tools([WEATHER, MODELS])}
    most = 0
    for seed in range(12):
        text, calls, _ = answered(engine, seed, choice="required", parallel=parallel)
        assert text == "" and calls
        for call in calls:
            jsonschema.validate(call.arguments, schemas[call.name])
        most = max(most, len(calls))
    assert parallel or most == 1


def test_a_tools_references_lead_into_its_own_schema(engine: Engine) -> None:
    """As pydantic writes nested models; another tool may have other definitions of that name."""

    def tool(name: str, inner: Any) -> Any:
        properties = {name: {"$ref": "#/$defs/A"} for name in ("of", "default")}
        schema = {"$id": "https://a.example/b", "type": "object", "properties": properties,
                  "required": ["of", "default"], "$defs": {"A": inner}}  # fmt: skip
        return {"type": "function", "function": {"name": name, "parameters": schema}}

    day = {"type": "object", "properties": {"day": {"enum": [1, 2]}}, "required": ["day"]}
    tree = {"type": "object", "properties": {"in": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}}
    own = {"type": "function", "function": {"name": "tree", "parameters": tree}}
    tools = [tool("when", day), tool("either.x-1", {"type": "boolean"}), own]
    schemas = {one.name: one.parameters for one in check_tools(tools)}
    called = set()
    for seed in range(12):
        name = [*schemas][seed % 4] if seed % 4 < 3 else "required"
        for call in answered(engine, seed, tools, choice=name)[1]:
            jsonschema.validate(call.arguments, schemas[call.name])
            called.add(call.name)
    assert called == {*schemas}


def test_references_make_tools_no_longer() -> None:
    inner = {"type": "boolean", "description": "x" * 400_000}
    schema = {"properties": {"of": {"$ref": "#/$defs/A"}}, "$defs": {"A": inner}}
    given = {"type": "function", "function": {"name": "when", "parameters": schema}}
    grammar = calls_grammar(check_tools([given]), parallel=True)
    assert json.loads(grammar.shortest)["name"] == "when"


@pytest.mark.parametrize("seed", range(4))
def test_held_calls_come_piece_by_piece(engine: Engine, seed: int) -> None:
    """At every split: a name once, then its arguments, which are those of the whole."""
    calling = Calling(check_tools([WEATHER, MODELS]), choice="required")
    prompt = encode_turns(engine, [{"role": "user", "content": "x"}])
    constraint = constraint_for(engine, len(prompt), 160, calling=calling)
    sampling = SamplingSettings(seed=seed)
    answer = generate(engine, prompt, sampling, max_tokens=160, constraint=constraint)
    written = ['[ {"name": "weather", "parameters": {"city": "a\\"}{]", "days": 1} } , '
               '{"name":"list_models","parameters":{}}]',
               "".join(chunk.text for chunk in answer)]  # fmt: skip
    for text in written:
        expected = read_answer(text, [tool.name for tool in calling.tools])[1]
        splits = [[text[:i], text[i:]] for i in range(len(text) + 1)]
        for pieces in (*splits, list(text)):
            held, calls = HeldCalls(), list[list[str]]()
            for part in (part for piece in pieces for part in held.feed(piece)):
                if part.name is not None:
                    calls.append([part.name, ""])
                calls[-1][1] += part.arguments
            assert [Call(name, json.loads(given)) for name, given in calls] == expected


def test_one_tool_can_be_asked_for_by_name(engine: Engine) -> None:
    for seed in range(6):
        _, calls, _ = answered(engine, seed, choice="list_models")
        assert {call.name for call in calls} == {"list_models"}
    with pytest.raises(UsageError, match="no tool is called 'other'"):
        answered(engine, 0, choice="other")


def test_the_threshold_decides_between_call_and_answer(engine: Engine) -> None:
    """By the probability of all that opens a call; an answer then begins with none of them."""
    calling = Calling(check_tools([WEATHER]))
    prompt = encode_turns(engine, [{"role": "user", "content": "x"}])
    engine.prefill(prompt)
    logits = engine.logits().copy()
    shares = np.exp(logits.astype(float)) / np.exp(logits.astype(float)).sum()
    constraint = constraint_for(engine, len(prompt), 160, calling=calling)
    assert constraint is not None
    share = float(shares[constraint.openings].sum())
    assert 0 < share < 0.5
    pieces = {engine.vocabulary.piece(int(token)) for token in constraint.openings}
    assert pieces >= {b"{", b"[", b"<|python_tag|>"} and not pieces & {b"a", b"<", b"}"}
    for seed in range(6):
        assert answered(engine, seed, threshold=share * 0.99)[1]
        text, calls, _ = answered(engine, seed, threshold=share * 1.01)
        assert not calls and text[:1] not in ("{", "[")
    with pytest.raises(UsageError, match="threshold"):
        answered(engine, 0, threshold=2.0)


def test_an_answers_first_token_counts_for_the_penalties(engine: Engine) -> None:
    calling = Calling(check_tools([WEATHER]), threshold=1.0)
    prompt = encode_turns(engine, [{"role": "user", "content": "x"}])
    (word,) = engine.vocabulary.tokenize("a")
    once = SamplingSettings(temperature=0, logit_bias=((word, 50.0),), presence_penalty=100.0)
    constraint = constraint_for(engine, len(prompt), 8, calling=calling)
    result = list(generate(engine, prompt, once, max_tokens=8, constraint=constraint))[-1].result
    assert result is not None and result.tokens.count(word) == 1


def test_without_choice_nothing_is_held(engine: Engine) -> None:
    calling = Calling(check_tools([WEATHER]), choice="none")
    assert constraint_for(engine, 10, 100, calling=calling) is None


def run(*arguments: str | Path, stdin: str = "", code: int = 0) -> str:
    child = run_program([*PROGRAM, "run", *arguments], input=stdin)
    assert child.returncode == code, child.stderr.decode()
    return child.stdout.decode() if code == 0 else child.stderr.decode()


def test_run_gives_calls_and_goes_on_with_results(model: Path, tmp_path: Path) -> None:
    (tmp_path / "tools.json").write_text(json.dumps([WEATHER]))
    given = ["-m", model, "--threads", "1", "--tools", tmp_path / "tools.json", "--seed", "1"]
    lines = run("x", *given, "--tool-choice", "required").splitlines()
    assert lines and all(json.loads(line)["name"] == "weather" for line in lines)
    parsed = json.loads(run("x", *given, "--tool-choice", "required", "--json"))
    assert parsed["finish_reason"] == "tool_calls" and parsed["text"] == ""
    assert [call["id"] for call in parsed["tool_calls"]] == [f"call_{i}" for i in range(len(lines))]
    calls = [json.loads(call["function"]["arguments"]) for call in parsed["tool_calls"]]
    assert calls == [json.loads(line)["arguments"] for line in lines]

    messages = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": None, "tool_calls": parsed["tool_calls"]},
        {"role": "tool", "content": "<|eot_id|>" + "r" * 390, "tool_call_id": "call_0"},
    ]
    (tmp_path / "messages.json").write_text(json.dumps(messages))
    results = ["--results", tmp_path / "messages.json", "--tool-output-limit", "100", "-n", "120"]
    shown = run(*given, *results, "--show-prompt")
    assert "weather" in shown and "300 of 400 characters were cut here" in shown
    assert "r" * 60 not in shown
    after = json.loads(run(*given, *results, "--tool-choice", "weather", "--json"))
    assert after["tool_calls"][0]["id"] == f"call_{len(lines)}"
    assert run(*given, *results, "--tool-choice", "none", "-n", "4")


def test_what_goes_with_no_tools_is_told(model: Path, tmp_path: Path) -> None:
    (tmp_path / "tools.json").write_text(json.dumps([WEATHER]))
    given = ["x", "-m", model, "--tools", tmp_path / "tools.json"]
    assert "--raw" in run(*given, "--raw", code=2)
    assert "no tool is called 'f'" in run(*given, "--tool-choice", "f", code=2)
    (tmp_path / "tools.json").write_text("{")
    assert "tools.json is not JSON" in run(*given, code=2)
    plain = write_model(tmp_path / "plain.gguf")
    assert "takes no calls" in run("x", "-m", plain, "--results", "-", code=2, stdin=CALLED)


CALLED = json.dumps([{"role": "user", "content": "x"}, message_of([Call("weather", {})])])


def test_long_results_are_cut_in_their_middle() -> None:
    messages = [
        {"role": "tool", "content": "a" * 50 + "b" * 50},
        {"role": "user", "content": "u" * 99},
    ]
    cut, other = bounded(messages, 10)
    assert cut["content"] == "aaaaa\n[... 90 of 100 characters were cut here ...]\nbbbbb"
    assert other == messages[1] and bounded(messages) == messages
    with pytest.raises(UsageError, match="limit"):
        bounded(messages, 0)


def test_where_no_call_fits_it_answers_or_says_so(engine: Engine) -> None:
    calling = Calling(check_tools([WEATHER]), threshold=0.0)
    prompt = encode_turns(engine, [{"role": "user", "content": "x"}])
    constraint = constraint_for(engine, len(prompt), 3, calling=calling)
    answer = generate(engine, prompt, SamplingSettings(seed=1), max_tokens=3, constraint=constraint)
    assert "".join(chunk.text for chunk in calling.parted(answer, lines=False))[:1] not in (
        "{",
        "[",
    )
    assert not calling.calls
    with pytest.raises(UsageError, match="don't fit"):
        calling = Calling(check_tools([WEATHER]), choice="required")
        constraint_for(engine, len(prompt), 3, calling=calling)
