"""Tools over HTTP, as OpenAI's and Anthropic's own packages call and read them."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import httpx2
import jsonschema  # type: ignore[import-untyped]
import pydantic
import pytest

from llamacli.answer import Calling
from llamacli.batch import BatchEngine, Scheduler, prepare
from llamacli.engine import EngineSettings
from llamacli.serve.answers import _jobs
from llamacli.serve.ask import Ask
from llamacli.shape import Grammar, read_schema
from llamacli.tools import check_tools
from tests.standins.calls import read_answer
from tests.standins.server import WEB, Serving, serving
from tests.standins.tiny import VOCABULARY, made_up_tokenizer, write_model
from tests.standins.vocabulary import TOOL_TEMPLATE

CHAT, ASKED = "/v1/chat/completions", [{"role": "user", "content": "x"}]
CITY = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 12},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}
WEATHER: Any = {"name": "weather", "description": "A city's weather", "parameters": CITY}
NOW: Any = {"name": "now", "parameters": {"type": "object", "properties": {}}}
TOOLS: Any = [{"type": "function", "function": function} for function in (WEATHER, NOW)]
FLAT: Any = [{"type": "function", **function} for function in (WEATHER, NOW)]
BLOCKS: Any = [
    {"name": f["name"], "description": "x", "input_schema": f["parameters"]} for f in (WEATHER, NOW)
]
NAMED = {"name": "weather"}
SCHEMAS = {function["name"]: function["parameters"] for function in (WEATHER, NOW)}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """Random weights that know how tools are told; what is asked for by required, they call."""
    path = tmp_path_factory.mktemp("tools") / "tiny.gguf"
    with serving("-m", write_model(path, template=TOOL_TEMPLATE), "-c", "1024") as started:
        yield started


@pytest.fixture
def client(server: Serving) -> Any:
    return server.client()


@pytest.fixture
def claude(server: Serving) -> Any:
    import anthropic

    return anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0)


def post(server: Serving, path: str, body: Any) -> httpx2.Response:
    return WEB.post(f"{server.url}{path}", json=body)


def held(name: str, arguments: Any) -> None:
    jsonschema.validate(json.loads(arguments) if isinstance(arguments, str) else arguments,
                        SCHEMAS[name])  # fmt: skip


# Grammars


def test_a_grammar_is_made_once_a_request_and_never_as_an_answer_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine's thread prepares answers; making the calls' grammar there would stall all."""
    made = []

    def counted(text: str) -> Grammar:
        made.append(text)
        return read_schema(text)

    monkeypatch.setattr("llamacli.tools.constraint.read_schema", counted)
    model = write_model(tmp_path / "tiny.gguf", template=TOOL_TEMPLATE)
    with BatchEngine(model, EngineSettings(threads=1), 2) as engine:
        ask = Ask(None, ["x"], n=3, max_tokens=200, calling=Calling(check_tools(TOOLS), "required"))
        jobs = _jobs(SimpleNamespace(engine=engine), ask)  # type: ignore[arg-type]
        assert len(made) == 1
        scheduler = Scheduler(engine)
        for index, job in enumerate(jobs[:2]):
            scheduler.start(prepare(engine, index, job))
        one, other = scheduler.running
        assert len(made) == 1
        while scheduler.running:
            scheduler.step()
        for running in (one, other):  # each is held to its own place in the grammar
            calls = read_answer(running.answer.text.given, [*SCHEMAS])[1]
            assert calls
            for call in calls:
                held(call.name, call.arguments)
        assert prepare(engine, 2, jobs[2]).answer.constraint is jobs[2].constraint


# Chat completions


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": NAMED}])
def test_a_stream_of_calls_is_the_same_answer(client: Any, choice: Any) -> None:
    """Each call begins once, with its index, its id and its name; its arguments follow, as they
    are written."""
    asked: Any = {"model": "tiny", "messages": ASKED, "tools": TOOLS, "tool_choice": choice,
                  "temperature": 0, "max_tokens": 200, "n": 2}  # fmt: skip
    whole = client.chat.completions.create(**asked)
    calls: dict[tuple[int, int], list[Any]] = {}
    finish: dict[int, Any] = {}
    pieces: dict[tuple[int, int], int] = {}
    for chunk in client.chat.completions.create(**asked, stream=True):
        choice = chunk.choices[0]
        assert not choice.delta.content
        for call in choice.delta.tool_calls or ():
            begun = calls.get((choice.index, call.index))
            if begun is None:
                assert call.id and call.type == "function" and call.function.name
                calls[choice.index, call.index] = [call.function.name, call.function.arguments]
            else:
                assert call.id is call.type is call.function.name is None
                begun[1] += call.function.arguments
                pieces[choice.index, call.index] = pieces.get((choice.index, call.index), 0) + 1
        finish[choice.index] = choice.finish_reason or finish.get(choice.index)
    for choice in whole.choices:
        assert choice.finish_reason == finish[choice.index]
        assert choice.finish_reason in ("tool_calls", "length")  # many calls are cut behind one
        assert choice.message.content is None and choice.message.tool_calls
        for number, call in enumerate(choice.message.tool_calls):
            assert calls[choice.index, number] == [call.function.name, call.function.arguments]
            held(call.function.name, call.function.arguments)
    assert len(calls) == sum(len(choice.message.tool_calls) for choice in whole.choices)
    assert all(pieces[at] > 5 for at, (name, _) in calls.items() if name == "weather")


def test_what_is_chosen_is_called(client: Any) -> None:
    asked: Any = {"model": "tiny", "messages": ASKED, "tools": TOOLS, "max_tokens": 200}
    for seed in range(3):
        named: Any = {"type": "function", "function": {"name": "now"}}
        answer = client.chat.completions.create(**asked, seed=seed, tool_choice=named)
        assert {c.function.name for c in answer.choices[0].message.tool_calls} == {"now"}
        one = client.chat.completions.create(
            **asked, seed=seed, tool_choice="required", parallel_tool_calls=False
        )
        assert len(one.choices[0].message.tool_calls) == 1
    none = client.chat.completions.create(**asked, tool_choice="none", seed=1)
    assert none.choices[0].message.tool_calls is None and none.choices[0].message.content


def test_the_threshold_decides(client: Any) -> None:
    asked: Any = {"model": "tiny", "messages": ASKED, "tools": TOOLS, "max_tokens": 200, "seed": 1}
    always = client.chat.completions.create(**asked, extra_body={"tool_threshold": 0})
    assert always.choices[0].message.tool_calls
    never = client.chat.completions.create(**asked, extra_body={"tool_threshold": 1})
    assert never.choices[0].message.tool_calls is None
    assert client.chat.completions.create(**asked).choices[0].message == never.choices[0].message


def test_the_servers_own_threshold(tmp_path: Path) -> None:
    model = write_model(tmp_path / "tiny.gguf", template=TOOL_TEMPLATE)
    with serving("-m", model, "-c", "1024", "--tool-threshold", "0") as server:
        body = {"messages": ASKED, "tools": TOOLS, "max_tokens": 200, "seed": 1}
        answer = post(server, CHAT, body).json()["choices"][0]["message"]
        assert answer["tool_calls"]
        answer = post(server, CHAT, {**body, "tool_threshold": 1}).json()["choices"][0]["message"]
        assert "tool_calls" not in answer


def test_log_probabilities_of_every_token(client: Any) -> None:
    asked: Any = {"model": "tiny", "messages": ASKED, "tools": TOOLS, "tool_choice": "required",
                  "logprobs": True, "top_logprobs": 2, "temperature": 0,
                  "max_tokens": 200}  # fmt: skip
    whole = client.chat.completions.create(**asked)
    told = whole.choices[0].logprobs.content
    assert len(told) == whole.usage.completion_tokens and len(told[0].top_logprobs) == 2
    text = b"".join(bytes(one.bytes) for one in told).decode()
    assert json.loads(text)  # the call as the model wrote it
    chunks = client.chat.completions.create(**asked, stream=True)
    entries = [x for c in chunks if (p := c.choices[0].logprobs) for x in p.content or ()]
    assert [one.token for one in entries] == [one.token for one in told]


@pytest.mark.parametrize("stop", [[], ["a", "e", "1"]])
def test_log_probabilities_are_of_the_text_alone(server: Serving, client: Any, stop: Any) -> None:
    """Joined they are the text: no control token, nothing that a stop text has cut."""
    asked: Any = {"model": "tiny", "max_tokens": 60, "stop": stop, "temperature": 3}
    left_out = 0
    for seed in range(4):
        one: Any = {**asked, "messages": ASKED, "logprobs": True, "seed": seed}
        whole = client.chat.completions.create(**one)
        told = whole.choices[0].logprobs.content
        text = b"".join(bytes(token.bytes) for token in told).decode(errors="replace")
        assert text == whole.choices[0].message.content
        left_out += whole.usage.completion_tokens - len(told)
        choices = [c.choices[0] for c in client.chat.completions.create(**one, stream=True)]
        collected = [token for c in choices if c.logprobs for token in c.logprobs.content or ()]
        text = b"".join(bytes(token.bytes) for token in collected).decode(errors="replace")
        assert text == "".join(choice.delta.content or "" for choice in choices)
        one = {**asked, "prompt": "x", "logprobs": 1, "seed": seed}
        choice = client.completions.create(**one).choices[0]
        assert "".join(choice.logprobs.tokens) == choice.text
        for start, token in zip(choice.logprobs.text_offset, choice.logprobs.tokens, strict=True):
            assert choice.text[start : start + len(token)] == token
    assert left_out


def test_a_cut_call_is_whole_and_a_stop_text_cuts_none(client: Any) -> None:
    import openai

    asked: Any = {"model": "tiny", "messages": ASKED, "tools": TOOLS, "tool_choice": "required"}
    cut = client.chat.completions.create(**asked, max_tokens=40, seed=2)
    for call in cut.choices[0].message.tool_calls:
        held(call.function.name, call.function.arguments)
    stops = ["{", ":", '"', "}", "a"]
    answer = client.chat.completions.create(**asked, max_tokens=200, stop=stops, seed=2)
    assert answer.choices[0].finish_reason == "tool_calls"
    with pytest.raises(openai.UnprocessableEntityError, match="don't fit"):
        client.chat.completions.create(**asked, max_tokens=2)


def test_results_go_in_and_an_answer_comes_out(client: Any) -> None:
    asked: Any = {"model": "tiny", "tools": TOOLS, "seed": 5, "max_tokens": 200}
    first = client.chat.completions.create(**asked, messages=ASKED, tool_choice="required")
    message = first.choices[0].message
    results = [{"role": "tool", "tool_call_id": call.id, "content": "18 °C"}
               for call in message.tool_calls]  # fmt: skip
    said: Any = [*ASKED, message, *results]
    answer = client.chat.completions.create(**asked, messages=said)
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.choices[0].message.content
    assert answer.usage.prompt_tokens > first.usage.prompt_tokens + 20
    again = [{**m.model_dump()} if m is message else m for m in said]
    same = client.chat.completions.create(**asked, messages=again)
    assert same.usage.prompt_tokens == answer.usage.prompt_tokens


class City(pydantic.BaseModel):
    """The weather of a city."""

    city: str = pydantic.Field(max_length=10)
    days: int = pydantic.Field(1, ge=1, le=9)


def test_openais_helpers_parse_calls(client: Any) -> None:
    import openai

    tool = openai.pydantic_function_tool(City, name="weather")
    asked: Any = {"model": "tiny", "messages": ASKED, "tools": [tool], "tool_choice": "required",
                  "parallel_tool_calls": False, "max_tokens": 300, "seed": 1}  # fmt: skip
    answer = client.chat.completions.parse(**asked)
    assert isinstance(answer.choices[0].message.tool_calls[0].function.parsed_arguments, City)
    with client.chat.completions.stream(**asked) as stream:
        events = list(stream)
        final = stream.get_final_completion().choices[0].message
    assert isinstance(final.tool_calls[0].function.parsed_arguments, City)
    done = [e for e in events if e.type == "tool_calls.function.arguments.done"]
    assert [e.arguments for e in done] == [c.function.arguments for c in final.tool_calls]
    assert [c.function.arguments for c in answer.choices[0].message.tool_calls] == [
        e.arguments for e in done
    ]


# Responses


@pytest.mark.parametrize("choice", ["required", {"type": "function", **NAMED}])
def test_responses_have_calls_as_items(client: Any, choice: Any) -> None:
    asked: Any = {"model": "tiny", "input": "x", "tools": FLAT, "tool_choice": choice,
                  "max_output_tokens": 200, "temperature": 0}  # fmt: skip
    whole = client.responses.create(**asked)
    assert whole.status in ("completed", "incomplete") and whole.tools[0].name == "weather"
    assert {item.type for item in whole.output} == {"function_call"}
    for item in whole.output:
        held(item.name, item.arguments)
    events = list(client.responses.create(**asked, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    final = events[-1].response
    calls = [(item.name, item.arguments) for item in final.output]
    assert calls == [(item.name, item.arguments) for item in whole.output]
    deltas = [""] * len(calls)
    for event in events:
        if event.type == "response.function_call_arguments.delta":
            deltas[event.output_index] += event.delta
    assert deltas == [arguments for _, arguments in calls]
    done = [e.item for e in events if e.type == "response.output_item.done"]
    assert done == final.output
    said: Any = [{"role": "user", "content": "x"}, *final.output]
    said += [
        {"type": "function_call_output", "call_id": item.call_id, "output": "18 °C"}
        for item in final.output
    ]
    again = client.responses.create(**{**asked, "input": said, "tool_choice": "none"})
    assert again.output_text and again.usage.input_tokens > whole.usage.input_tokens + 10


def test_openais_helpers_parse_responses(client: Any) -> None:
    import openai

    tool = openai.pydantic_responses_function_tool(City, name="weather")
    named: Any = {"type": "function", "name": "weather"}
    asked: Any = {"model": "tiny", "input": "x", "tools": [tool], "tool_choice": named,
                  "parallel_tool_calls": False, "max_output_tokens": 300,
                  "extra_body": {"seed": 1}}  # fmt: skip
    answer = client.responses.parse(**asked)
    assert isinstance(answer.output[0].parsed_arguments, City)
    with client.responses.stream(**asked) as stream:
        final = stream.get_final_response()
    assert isinstance(final.output[0].parsed_arguments, City)


# Messages


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", **NAMED}])
def test_messages_have_calls_as_blocks(claude: Any, choice: Any) -> None:
    asked: Any = {"model": "tiny", "messages": ASKED, "tools": BLOCKS, "max_tokens": 200,
                  "tool_choice": choice, "extra_body": {"temperature": 0}}  # fmt: skip
    whole = claude.messages.create(**asked)
    assert whole.stop_reason in ("tool_use", "max_tokens")  # many calls are cut behind one
    assert {block.type for block in whole.content} == {"tool_use"}
    for block in whole.content:
        held(block.name, block.input)
    with claude.messages.stream(**asked) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_message()
    assert final.stop_reason == whole.stop_reason and "input_json" in kinds
    ours = [(block.name, block.input) for block in final.content]
    assert ours == [(block.name, block.input) for block in whole.content]
    events = list(claude.messages.create(**asked, stream=True))
    indices = [event.index for event in events if event.type == "content_block_start"]
    assert indices == list(range(len(whole.content)))
    results = [{"type": "tool_result", "tool_use_id": b.id, "content": "18 °C"}
               for b in whole.content]  # fmt: skip
    told = [*results, {"type": "text", "text": "And?"}]
    said: Any = [*ASKED, {"role": "assistant", "content": whole.content}]
    said += [{"role": "user", "content": told}]
    none: Any = {**asked, "messages": said, "tool_choice": {"type": "none"}}
    answer = claude.messages.create(**none)
    assert answer.content[0].type == "text" and answer.stop_reason in ("end_turn", "max_tokens")
    counted = claude.messages.count_tokens(model="tiny", messages=said, tools=BLOCKS)
    usage = answer.usage
    assert counted.input_tokens == usage.input_tokens + usage.cache_read_input_tokens


def test_one_call_where_no_more_are_wanted(claude: Any) -> None:
    asked: Any = {"model": "tiny", "messages": ASKED, "tools": BLOCKS, "max_tokens": 200}
    for seed in range(4):
        choice: Any = {"type": "any", "disable_parallel_tool_use": True}
        answer = claude.messages.create(**asked, tool_choice=choice, extra_body={"seed": seed})
        assert len(answer.content) == 1 and answer.stop_reason == "tool_use"
        named: Any = {"type": "tool", "name": "now"}
        answer = claude.messages.create(**asked, tool_choice=named, extra_body={"seed": seed})
        assert {block.name for block in answer.content} == {"now"}


def test_anthropics_tool_runner_runs_tools(claude: Any) -> None:
    """The model is made to call until a result has come; then it answers."""
    import anthropic

    seen: list[str] = []

    @anthropic.beta_tool
    def weather(city: Literal["Paris", "Oslo"]) -> str:
        """The weather of a city.

        Args:
            city: Its name.
        """
        seen.append(city)
        runner.set_messages_params(lambda params: {**params, "tool_choice": {"type": "none"}})
        return "18 °C, <|eot_id|>"

    runner = claude.beta.messages.tool_runner(
        model="tiny", max_tokens=150, messages=ASKED, tools=[weather],
        tool_choice={"type": "tool", "name": "weather", "disable_parallel_tool_use": True},
        extra_body={"seed": 2}, max_iterations=3,
    )  # fmt: skip
    messages = list(runner)
    assert len(seen) == 1 and messages[0].stop_reason == "tool_use"
    assert messages[-1].content[0].type == "text" and len(messages) == 2


# What can't be


def test_results_and_names_cannot_forge(server: Serving) -> None:
    """All 256 control tokens, in every place of tools that takes a text, by every API."""
    added = made_up_tokenizer(VOCABULARY)["added_tokens"]
    special = {entry["content"]: entry["id"] for entry in added}
    assert len(special) == 256

    def chat(text: str) -> Any:
        function = {"name": text, "arguments": json.dumps({text: [text]})}
        schema = {"type": "object", "properties": {text: {"type": "string", "enum": [text]}}}
        call = {"id": text, "type": "function", "function": function}
        tool = {"name": "f", "description": text, "parameters": schema}
        messages = [
            {"role": "user", "content": text, "name": text},
            {"role": "assistant", "content": text, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": text, "name": text, "content": text},
        ]
        return {"messages": messages, "tools": [{"type": "function", "function": tool}]}

    def blocks(text: str) -> Any:
        result = {"type": "tool_result", "tool_use_id": text, "content": text}
        call = {"type": "tool_use", "id": text, "name": text, "input": {text: text}}
        tool = {"name": "f", "description": text, "input_schema": {"type": "object"}}
        messages = [{"role": "user", "content": text}, {"role": "assistant", "content": [call]},
                    {"role": "user", "content": [result]}]  # fmt: skip
        return {"messages": messages, "tools": [tool]}

    def control(text: str) -> list[int]:
        response = post(server, "/apply-template", chat(text)).json()
        assert response["prompt"].count(text) >= 8
        return [token for token in response["tokens"] if token in special.values()]

    spelled = "".join(special)
    assert control(spelled) == control("word")
    assert _spelled(server, blocks(spelled), spelled) >= 6 * len(special)


def _spelled(server: Serving, body: Any, text: str) -> int:
    """How many more tokens Anthropic's body has by a text than by a token of a letter."""
    letters = json.loads(json.dumps(body).replace(json.dumps(text)[1:-1], "x"))
    path = "/v1/messages/count_tokens"
    more, less = (post(server, path, one).json()["input_tokens"] for one in (body, letters))
    return int(more - less)


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"tools": {}}, "tools"),
        ({"tools": [1]}, "tools.0"),
        ({"tools": [{"function": NOW}]}, "tools.0.type"),
        ({"tools": [TOOLS[0], {"type": "web_search"}]}, "tools.1.type"),
        ({"tools": [{"type": "function"}]}, "tools.0.function"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools.0.function.name"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools.0.function.name"),
        ({"tools": [{"type": "function", "function": {**NOW, "x": 1}}]}, "tools.0.function.x"),
        ({"tools": [*TOOLS, TOOLS[0]]}, "tools.2.function.name"),
        (
            {"tools": [{"type": "function", "function": {**NOW, "parameters": {"type": "array"}}}]},
            "tools.0.function.parameters",
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": {
                "type": "object", "properties": {"x": {"type": "nonsense"}}}}}]},
            "tools.0.function.parameters",
        ),
        ({"tools": [TOOLS[0]] * 129}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": "weather"}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": {"type": "function"}}, "tool_choice.function"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "f"}}},
         "tool_choice"),
        ({"tools": TOOLS, "tool_choice": {"type": "custom"}}, "tool_choice.type"),
        ({"tools": TOOLS, "parallel_tool_calls": 1}, "parallel_tool_calls"),
        ({"tools": TOOLS, "tool_threshold": 2}, "tool_threshold"),
        ({"tools": TOOLS, "response_format": {"type": "json_object"}}, "response_format"),
        ({"functions": [NOW]}, "functions"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"type": "function", "function": {
            "name": "f", "arguments": "[1]"}}]}]}, "messages.0.tool_calls.0.function.arguments"),
        ({"messages": [{"role": "user", "content": "x", "tool_calls": [{}]}]},
         "messages.0.tool_calls"),
        ({"messages": [{"role": "assistant", "content": None}]}, "messages.0.content"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_tools_is_named(server: Serving, more: Any, param: str) -> None:
    answer = post(server, CHAT, {"messages": ASKED, "max_tokens": 1, **more})
    told = answer.json()["error"]
    assert (answer.status_code, told["param"]) == (422, param), told
    assert param in told["message"] or param == "tools"


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/responses", {"input": "x", "tools": [{"type": "web_search"}]}, "tools.0.type"),
        ("/v1/responses", {"input": "x", "tools": [{"type": "function", "name": "a b"}]},
         "tools.0.name"),
        ("/v1/responses", {"input": [{"type": "function_call_output", "call_id": "x"}]},
         "input.0.output"),
        ("/v1/responses", {"input": [{"type": "function_call", "call_id": "x", "name": "f",
                                      "arguments": "{"}]}, "input.0.arguments"),
        ("/v1/responses", {"input": [{"type": "reasoning"}]}, "input.0.type"),
        ("/v1/messages", {"messages": ASKED, "tools": [{"type": "bash_20250124", "name": "bash"}]},
         "tools.0.type"),
        ("/v1/messages", {"messages": ASKED, "tools": [{"name": "f", "input_schema": {
            "type": "string"}}]}, "tools.0.input_schema"),
        ("/v1/messages", {"messages": ASKED, "tools": BLOCKS, "tool_choice": {"type": "tool"}},
         "tool_choice.name"),
        ("/v1/messages", {"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]},
         "messages.0.content.0.tool_use_id"),
        ("/v1/messages", {"messages": [{"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "x", "content": [{"type": "image"}]}]}]},
         "messages.0.content.0.content.0.type"),
    ],
)  # fmt: skip
def test_what_is_wrong_elsewhere_is_named(
    server: Serving, path: str, body: Any, param: str
) -> None:
    limit = {"max_tokens": 1} if path == "/v1/messages" else {}
    answer = post(server, path, {**body, **limit})
    told = answer.json()["error"]
    assert (answer.status_code, told["param"]) == (422, param), told


def test_a_template_without_tools_says_so(endless: Path) -> None:
    with serving("-m", endless, "-c", "1024") as server:
        for path, tools in ((CHAT, TOOLS), ("/v1/messages", BLOCKS)):
            body = {"messages": ASKED, "tools": tools, "max_tokens": 1}
            answer = post(server, path, body)
            assert answer.status_code == 400 and "takes no tools" in answer.text
        answer = post(server, "/v1/responses", {"input": "x", "tools": FLAT})
        assert answer.status_code == 400 and "takes no tools" in answer.text
        call = {"type": "function", "function": {"name": "f", "arguments": "{}"}}
        said = [*ASKED, {"role": "assistant", "tool_calls": [call]}]
        answer = post(server, CHAT, {"messages": said})
        assert answer.status_code == 400 and "takes no calls" in answer.text
