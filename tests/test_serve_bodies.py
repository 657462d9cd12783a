"""Requests that were made up, and other programs' own packages against the server."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings, strategies as some

from tests.standins.server import Serving, serving
from tests.standins.tiny import write_model
from tests.standins.vocabulary import TOOL_TEMPLATE
from tests.standins.waiting import PATIENCE

EXAMPLES = int(os.environ.get("LLAMACLI_EXAMPLES", "300"))  # 10,000 were run before a release

TEXT = some.text(max_size=30) | some.sampled_from(["<|eot_id|>", "\x1b[2J", "\ud800", ""])
ANY = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats() | TEXT,
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
PART = some.fixed_dictionaries({"type": some.sampled_from(["text", "image_url"]), "text": TEXT})
CONTENT = TEXT | some.lists(PART, max_size=3) | ANY
ROLE = some.sampled_from(["system", "user", "assistant", "tool", "developer"]) | TEXT
MESSAGE = some.fixed_dictionaries({"role": ROLE, "content": CONTENT}) | ANY
SCHEMA = some.sampled_from(
    [{"type": "integer"}, {"enum": ["a", 1]}, {"type": "array", "items": {"type": "boolean"}}]
) | some.dictionaries(some.sampled_from(["type", "enum", "$ref", "pattern"]), ANY, max_size=2)
FORMAT = some.fixed_dictionaries(
    {"type": some.sampled_from(["text", "json_object", "json_schema", "x"])},
    optional={"json_schema": some.fixed_dictionaries({"name": TEXT, "schema": SCHEMA})},
)
SOUND: dict[str, Any] = {
    "temperature": some.floats(0, 3),
    "top_p": some.floats(0, 1),
    "top_k": some.integers(0, 100),
    "min_p": some.floats(0, 1),
    "n": some.integers(1, 3),
    "seed": some.integers(-(1 << 63), (1 << 63) - 1),
    "stop": TEXT | some.lists(TEXT, max_size=3),
    "stream": some.booleans(),
    "presence_penalty": some.floats(-2, 2),
    "frequency_penalty": some.floats(-2, 2),
    "repeat_penalty": some.floats(0.5, 2),
    "logit_bias": some.dictionaries(some.integers(0, 2000).map(str), some.floats(-100, 100)),
    "stream_options": some.fixed_dictionaries({"include_usage": some.booleans()}),
    "response_format": FORMAT,
    "lora": some.lists(
        some.fixed_dictionaries(
            {"id": some.integers(-1, 2)}, optional={"scale": some.floats(-2, 2)}
        ),
        max_size=2,
    ),
    "user": TEXT,
    "tools": some.just([]) | ANY,
    "model": some.just("demo") | TEXT,
    "max_completion_tokens": some.integers(1, 4),
}
OPTIONS = some.dictionaries(some.sampled_from(sorted(SOUND)), some.none(), max_size=5).flatmap(
    lambda names: some.fixed_dictionaries({name: SOUND[name] | ANY for name in names})
)
MAX = some.fixed_dictionaries({"max_tokens": some.integers(1, 3)})


@pytest.fixture(scope="module")
def server(demo: Path) -> Iterator[Serving]:
    with serving("-m", demo, "-c", "1024", "--quiet") as started:
        yield started


@pytest.fixture(scope="module")
def caller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A model whose template takes tools."""
    path = tmp_path_factory.mktemp("tools") / "demo.gguf"
    with serving("-m", write_model(path, template=TOOL_TEMPLATE), "-c", "1024", "--quiet") as up:
        yield up


def check(server: Serving, client: httpx2.Client, path: str, body: Any) -> None:
    """An answer, a stream without a 500 in it, or an error with a name."""
    answer = client.post(f"{server.url}{path}", content=json.dumps(body).encode())
    assert answer.status_code == 200 or 400 <= answer.status_code < 500, (body, answer.text)
    if answer.status_code != 200:
        error = answer.json()["error"]
        assert error["message"] and error["type"], body
    elif answer.headers["content-type"].startswith("text/event-stream"):
        assert "server_error" not in answer.text, (body, answer.text)
        assert answer.text.rstrip().endswith(("[DONE]", "}")), body
    else:
        assert answer.json()


def drive(server: Serving, path: str, made: "some.SearchStrategy[Any]") -> None:
    with httpx2.Client(timeout=PATIENCE) as client:

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(made)
        def ask(body: Any) -> None:
            check(server, client, path, body)

        ask()
    assert server.child.poll() is None


def joined(*parts: Any) -> Any:
    return some.tuples(*parts).map(
        lambda parts_made: {k: v for part in parts_made for k, v in part.items()}
    )


def test_chats_that_are_made_up_end_in_an_answer_or_a_named_error(server: Serving) -> None:
    messages = some.fixed_dictionaries({"messages": some.lists(MESSAGE, max_size=3) | ANY})
    drive(server, "/v1/chat/completions", joined(messages, MAX, OPTIONS))


def test_completions_that_are_made_up(server: Serving) -> None:
    tokens = some.lists(some.integers(-1, 3000), max_size=4)
    prompts = TEXT | tokens | some.lists(TEXT | tokens, max_size=3) | ANY
    drive(
        server,
        "/v1/completions",
        joined(some.fixed_dictionaries({"prompt": prompts}), MAX, OPTIONS),
    )


def test_messages_and_responses_that_are_made_up(server: Serving) -> None:
    system = some.dictionaries(some.just("system"), CONTENT, max_size=1)
    messages = some.fixed_dictionaries({"messages": some.lists(MESSAGE, max_size=3) | ANY})
    names = some.sampled_from(["stop_sequences", "thinking", "output_config", "tools", "stream"])
    more = some.dictionaries(names, ANY | some.booleans(), max_size=2)
    drive(server, "/v1/messages", joined(messages, MAX, system, more))
    drive(server, "/v1/messages/count_tokens", joined(messages, system, more))
    given = some.fixed_dictionaries({"input": TEXT | some.lists(MESSAGE, max_size=3) | ANY})
    names = some.sampled_from(["instructions", "text", "include", "truncation", "stream"])
    limit = some.fixed_dictionaries({"max_output_tokens": some.integers(1, 3)})
    drive(server, "/v1/responses", joined(given, limit, some.dictionaries(names, ANY, max_size=2)))
    drive(server, "/v1/batches", ANY | some.dictionaries(TEXT, ANY))


# Tools: mostly sound ones, so that what lies behind their reading is reached, too.


def often(sound: Any) -> Any:
    return some.sampled_from(range(40)).flatmap(lambda n: sound if n < 39 else ANY)


def few(what: Any) -> Any:
    return often(some.lists(often(what), min_size=1, max_size=2))


def field(name: str, value: Any) -> Any:
    return some.fixed_dictionaries({name: value})


def kind(called: str, /, **fields: Any) -> Any:
    return some.fixed_dictionaries({"type": some.just(called), **fields})


def maybe(**fields: Any) -> Any:
    return some.fixed_dictionaries({}, optional=fields)


WORD = TEXT.filter(lambda text: "\ud800" not in text)
TOOL = some.sampled_from([*"ffffffffgggg", "a b", "<|eot_id|>"])
SIMPLE = some.sampled_from([{"type": "integer"}, {"enum": ["a", "<|eot_id|>"]}, {"type": "null"}])
PROPERTIES = some.dictionaries(some.sampled_from(["x", "<|eot_id|>"]), SIMPLE, max_size=2)
PARAMETERS = joined(
    kind("object"),
    maybe(
        properties=PROPERTIES | often(PROPERTIES | SCHEMA),
        required=some.lists(some.sampled_from(["x", "y"]), max_size=2),
        additionalProperties=often(some.booleans()),
    ),
)
FUNCTION = joined(
    field("name", often(TOOL)), maybe(description=often(WORD), parameters=PARAMETERS, strict=ANY)
)
FLAG = some.booleans()
ARGUMENTS = often(some.sampled_from([*["{}", '{"x": "<|eot_id|>"}', ""] * 5, "["]))
FORCED = some.sampled_from([*["required"] * 3, "none", "auto", "x"])
MORE = maybe(parallel_tool_calls=often(some.booleans()), tool_threshold=often(some.floats(0, 1)),
             stream=FLAG, seed=some.integers(0, 9))  # fmt: skip
TURN = joined(field("role", some.sampled_from(["user", "assistant"])), field("content", WORD))


def test_chats_with_tools_that_are_made_up(caller: Serving) -> None:
    function = joined(field("name", WORD), field("arguments", ARGUMENTS))
    called = joined(
        field("role", some.just("assistant")), maybe(content=WORD),
        field("tool_calls", few(kind("function", id=WORD, function=function))),
    )  # fmt: skip
    result = joined(field("role", some.just("tool")), field("content", often(WORD)),
                    maybe(tool_call_id=WORD, name=WORD))  # fmt: skip
    messages = field("messages", some.lists(often(called | result | TURN), min_size=1, max_size=4))
    choice = often(FORCED | kind("function", function=field("name", TOOL)))
    tools = field("tools", few(kind("function", function=FUNCTION)))
    more = joined(tools, maybe(tool_choice=choice))
    limit = field("max_tokens", some.sampled_from([1, 30, 90, 90, 90]))
    drive(caller, "/v1/chat/completions", joined(messages, limit, more, MORE))


def test_messages_with_tools_that_are_made_up(caller: Serving) -> None:
    use = joined(kind("tool_use", id=WORD, input=often(some.just({}))), field("name", WORD))
    text = kind("text", text=WORD)
    result = joined(
        kind("tool_result", tool_use_id=WORD),
        maybe(content=often(WORD | some.lists(text, max_size=2)), is_error=some.booleans()),
    )
    calls = joined(field("role", some.just("assistant")), field("content", few(use | text)))
    results = joined(field("role", some.just("user")), field("content", few(result | text)))
    messages = some.lists(often(calls | results | TURN), max_size=3)
    ended = some.tuples(messages, results).map(lambda pair: [*pair[0], pair[1]])
    tool = joined(field("name", often(TOOL)), field("input_schema", often(PARAMETERS)),
                  maybe(description=often(WORD), type=often(some.just("custom"))))  # fmt: skip
    kinds = some.sampled_from(["any"] * 3 + ["auto", "none"]).map(lambda name: {"type": name})
    choice = joined(
        kinds | kind("tool") | joined(kind("tool"), field("name", TOOL)),
        maybe(disable_parallel_tool_use=often(FLAG)),
    )
    more = joined(field("tools", few(tool)), maybe(tool_choice=often(choice), stream=FLAG))
    limit = field("max_tokens", some.sampled_from([1, 30, 90, 90, 90]))
    drive(caller, "/v1/messages", joined(field("messages", ended), limit, more))


def test_responses_with_tools_that_are_made_up(caller: Serving) -> None:
    call = joined(kind("function_call", call_id=WORD, arguments=ARGUMENTS), field("name", WORD))
    output = kind("function_call_output", call_id=WORD, output=often(WORD))
    given = field("input", some.lists(often(call | output | TURN), min_size=1, max_size=4))
    choice = often(FORCED | joined(kind("function"), field("name", TOOL)))
    tools = field("tools", few(joined(kind("function"), FUNCTION)))
    more = joined(tools, maybe(tool_choice=choice))
    limit = field("max_output_tokens", some.sampled_from([1, 30, 90, 90, 90]))
    drive(caller, "/v1/responses", joined(given, limit, more, MORE))


@pytest.mark.parametrize("path", ["/tokenize", "/detokenize", "/apply-template"])
def test_own_endpoints_bodies_that_are_made_up(server: Serving, path: str) -> None:
    names = some.sampled_from(["content", "tokens", "messages", "parse_special", "with_pieces"])
    lists = some.lists(some.integers(-1, 3000) | MESSAGE, max_size=4)
    drive(server, path, some.dictionaries(names, TEXT | lists | ANY, max_size=3) | ANY)


def test_the_package_llm_answers_by_it(server: Serving, tmp_path: Path) -> None:
    models = [{"model_id": "mine", "model_name": "demo", "api_base": f"{server.url}/v1"}]
    (tmp_path / "extra-openai-models.yaml").write_text(json.dumps(models))
    environment = {**os.environ, "LLM_USER_PATH": str(tmp_path), "OPENAI_API_KEY": "none"}
    for options in ((), ("--no-stream",)):
        done = subprocess.run(
            [sys.executable, "-m", "llm", "-m", "mine", "Hi", "-o", "temperature", "0", *options],
            capture_output=True, text=True, timeout=PATIENCE, env=environment,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.stdout.startswith("Hello!"), done.stderr
