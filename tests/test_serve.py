"""The server as OpenAI's own client sees it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.standins.checkpoint import tokenizer
from tests.standins.server import WEB, Serving, serving
from tests.standins.tiny import VOCABULARY
from tests.standins.waiting import wait_until

HELLO: Any = [{"role": "user", "content": "Hi"}]


@pytest.fixture(scope="module")
def babbling(endless: Path) -> Iterator[Serving]:
    """Its answers never end by themselves; two at a time, one may wait."""
    with serving("-m", endless, "--parallel", "2", "--queue", "1", "-c", "100000") as started:
        yield started


@pytest.fixture
def client(server: Serving) -> Any:
    return server.client()


def post(server: Serving, path: str, body: Any, **headers: str) -> httpx2.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return WEB.post(f"{server.url}{path}", content=content, headers=headers)


def test_an_answer(client: Any) -> None:
    answer = client.chat.completions.create(model="demo", messages=HELLO, temperature=0)
    assert answer.choices[0].message.content.startswith("Hello!")
    assert answer.choices[0].finish_reason == "stop" and answer.choices[0].message.role
    assert answer.usage.prompt_tokens == 14
    assert answer.usage.total_tokens == 14 + answer.usage.completion_tokens


def test_a_stream_is_the_same_answer(client: Any) -> None:
    asked: Any = {"model": "demo", "messages": HELLO, "temperature": 0, "logprobs": True}
    whole = client.chat.completions.create(**asked, top_logprobs=3)
    stream = client.chat.completions.create(
        **asked, top_logprobs=3, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-2].choices[0].finish_reason == "stop" and not chunks[-1].choices
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    told = [one for c in chunks if c.choices and c.choices[0].logprobs
            for one in c.choices[0].logprobs.content]  # fmt: skip
    assert [one.token for one in told] == [one.token for one in whole.choices[0].logprobs.content]
    assert len(told) == whole.usage.completion_tokens
    assert all(len(one.top_logprobs) == 3 for one in told)


def test_several_answers_with_seeds(client: Any) -> None:
    asked: Any = {"model": "demo", "messages": HELLO, "temperature": 9.0, "max_tokens": 8}
    first = client.chat.completions.create(**asked, n=4, seed=5)
    again = client.chat.completions.create(**asked, n=4, seed=5)
    texts = [choice.message.content for choice in first.choices]
    assert texts == [choice.message.content for choice in again.choices]
    assert [choice.index for choice in first.choices] == [0, 1, 2, 3] and len(set(texts)) > 1
    stream = client.chat.completions.create(**asked, n=4, seed=5, stream=True)
    streamed = ["", "", "", ""]
    for chunk in stream:
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
    assert streamed == texts


def test_stop_and_limits(client: Any) -> None:
    asked: Any = {"model": "demo", "messages": HELLO, "temperature": 0}
    stopped = client.chat.completions.create(**asked, stop=["demo", "never"])
    assert stopped.choices[0].message.content == "Hello! I am llamacli's "
    assert stopped.choices[0].finish_reason == "stop"
    short = client.chat.completions.create(**asked, max_completion_tokens=2)
    assert short.choices[0].finish_reason == "length" and short.usage.completion_tokens == 2


def test_biases_and_penalties_reach_the_sampler(client: Any, server: Serving) -> None:
    hello = post(server, "/tokenize", {"content": "Hello"}).json()["tokens"][0]
    asked: Any = {"model": "demo", "messages": HELLO, "temperature": 0, "max_tokens": 20}
    banned = client.chat.completions.create(**asked, logit_bias={str(hello): -100})
    assert "Hello" not in banned.choices[0].message.content
    plain = client.chat.completions.create(**asked)
    heavy = client.chat.completions.create(**asked, presence_penalty=2, frequency_penalty=2,
                                           extra_body={"repeat_penalty": 3.0})  # fmt: skip
    assert plain.choices[0].message.content != heavy.choices[0].message.content


def test_answers_in_json(client: Any) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 5}, "old": {"type": "boolean"}},
        "required": ["name", "old"],
        "additionalProperties": False,
    }
    form: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    for temperature in (0.0, 1.5):
        answer = client.chat.completions.create(
            model="demo", messages=HELLO, response_format=form, temperature=temperature
        )
        assert set(json.loads(answer.choices[0].message.content)) == {"name", "old"}
    free = client.chat.completions.create(
        model="demo", messages=HELLO, response_format={"type": "json_object"}, max_tokens=30
    )
    assert isinstance(json.loads(free.choices[0].message.content), dict)


def test_completions(client: Any) -> None:
    asked: Any = {"model": "demo", "prompt": ["What is", "Name the"], "temperature": 0, "n": 2,
                  "max_tokens": 2}  # fmt: skip
    answer = client.completions.create(**asked, logprobs=2)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    first, second, third, _ = answer.choices
    assert first.text == second.text != third.text
    assert "".join(first.logprobs.tokens) == first.text
    assert first.logprobs.text_offset[1] == len(first.logprobs.tokens[0])
    texts = ["", "", "", ""]
    for chunk in client.completions.create(**asked, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == [choice.text for choice in answer.choices]


def test_what_another_asked_is_not_read_again(client: Any) -> None:
    start = "one two three four five six seven eight nine ten " * 8
    asked: Any = {"model": "demo", "max_tokens": 2}
    client.completions.create(prompt=start + "a", **asked)
    answer = client.completions.create(prompt=start + "b", **asked)
    cached = answer.usage.prompt_tokens_details.cached_tokens
    assert answer.usage.prompt_tokens - 3 <= cached < answer.usage.prompt_tokens


def test_content_in_parts_and_other_roles(client: Any) -> None:
    parts: Any = [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]
    answer = client.chat.completions.create(
        model="demo", messages=[{"role": "user", "content": parts}], temperature=0
    )
    assert answer.usage.prompt_tokens == 14
    client.chat.completions.create(
        model="demo", max_tokens=1,
        messages=[{"role": "developer", "content": "Be brief."}, *HELLO],
    )  # fmt: skip


def test_models(client: Any, server: Serving) -> None:
    import openai

    assert [model.id for model in client.models.list()] == ["demo"]
    assert client.models.retrieve("demo").id == "demo"
    with pytest.raises(openai.NotFoundError, match="there are demo"):
        client.models.retrieve("nothing")
    with pytest.raises(openai.NotFoundError, match="there are demo"):
        client.chat.completions.create(model="/etc/passwd", messages=HELLO)
    assert post(server, "/v1/chat/completions", {"messages": HELLO}).status_code == 200


def test_own_endpoints(server: Serving) -> None:
    text = "Hello <|eot_id|> wörld"
    tokens = post(server, "/tokenize", {"content": text}).json()["tokens"]
    assert post(server, "/detokenize", {"tokens": tokens}).json() == {"content": text}
    special = post(server, "/tokenize", {"content": text, "parse_special": True}).json()["tokens"]
    assert len(special) < len(tokens)
    pieces = post(server, "/tokenize", {"content": "Hi", "with_pieces": True}).json()["tokens"]
    assert pieces[0]["piece"] and pieces[0]["id"]
    prompt = post(server, "/apply-template", {"messages": HELLO}).json()
    assert prompt["prompt"].endswith("<|end_header_id|>\n\n") and len(prompt["tokens"]) == 14
    assert WEB.get(f"{server.url}/health").json() == {"status": "ok"}
    metrics = WEB.get(f"{server.url}/metrics").text
    assert "llamacli_tokens_predicted_total" in metrics and "time_between_tokens" in metrics


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        (b"{", 400, None),
        (b"[]", 400, None),
        (b'{"messages": NaN}', 400, None),
        (b'{"messages": [], "user": 1e999}', 400, None),  # it couldn't be told again
        (b"[" * 100_000, 400, None),
        (b"\xff\xfe", 400, None),
        ({}, 422, "messages"),
        ({"messages": []}, 422, "messages"),
        ({"messages": [{"role": "user"}]}, 422, "messages.0.content"),
        ({"messages": [{"role": "x", "content": ""}]}, 422, "messages.0.role"),
        ({"messages": [*HELLO, {"role": "user", "content": 3}]}, 422, "messages.1.content"),
        ({"messages": HELLO, "temperature": "hot"}, 422, "temperature"),
        ({"messages": HELLO, "temperature": 1e9}, 422, "temperature"),
        ({"messages": HELLO, "top_logprobs": 3}, 422, "top_logprobs"),
        ({"messages": HELLO, "logit_bias": {"x": 1}}, 422, "logit_bias.x"),
        ({"messages": HELLO, "logit_bias": {"999999": 1}}, 422, "logit_bias"),
        ({"messages": HELLO, "stop": [""]}, 422, "stop.0"),
        ({"messages": HELLO, "n": 0}, 422, "n"),
        ({"messages": HELLO, "max_tokens": 0}, 422, "max_tokens"),
        ({"messages": HELLO, "tools": [{"type": "function"}]}, 422, "tools.0.function"),
        ({"messages": HELLO, "echo": True}, 422, "echo"),
        ({"messages": HELLO, "suffix": "x"}, 422, "suffix"),
        ({"messages": HELLO, "temprature": 1}, 422, "temprature"),
        ({"messages": HELLO, "stream_options": {"x": 1}}, 422, "stream_options.x"),
        ({"messages": HELLO, "response_format": {"type": "xml"}}, 422, "response_format.type"),
        (
            {"messages": HELLO, "response_format": {"type": "json_schema", "json_schema": {
                "name": "x", "schema": {"type": "nonsense"}}}},
            422, "response_format.json_schema.schema",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            422, "messages.0.content.0.type",
        ),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, 422, None),
        ({"messages": HELLO, "model": "none"}, 404, "model"),
        ({"messages": [{"role": "user", "content": "word " * 9000}]}, 400, None),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(server: Serving, body: Any, status: int, param: str) -> None:
    answer = post(server, "/v1/chat/completions", body)
    told = answer.json()["error"]
    assert (answer.status_code, told["param"]) == (status, param), told
    assert told["message"] and told["type"]


def test_a_prompt_that_is_too_long_is_told_with_both_counts(client: Any) -> None:
    import openai

    long: Any = [{"role": "user", "content": "word " * 9000}]
    with pytest.raises(openai.BadRequestError, match=r"has \d+ tokens, the context \d+") as told:
        client.chat.completions.create(model="demo", messages=long)
    assert told.value.code == "context_length_exceeded"


def test_fields_that_change_nothing_are_named(server: Serving) -> None:
    body = {"messages": HELLO, "user": "me", "store": False, "max_tokens": 1}
    answer = post(server, "/v1/chat/completions", body)
    assert answer.headers["llamacli-ignored"] == "user, store"


def test_other_paths_and_methods(server: Serving) -> None:
    assert post(server, "/v1/nothing", {}).json()["error"]["code"] == "unknown_url"
    answer = WEB.get(f"{server.url}/v1/chat/completions")
    assert answer.status_code == 405 and answer.headers["allow"] == "POST"


def test_control_tokens_in_any_field_stay_text(babbling: Serving) -> None:
    """All 256 of them, in every place that takes a text."""
    special = {entry["content"]: entry["id"] for entry in tokenizer(VOCABULARY)["added_tokens"]}
    assert len(special) == 256

    def markers(messages: Any) -> list[int]:
        answer = post(babbling, "/apply-template", {"messages": messages}).json()
        return [token for token in answer["tokens"] if token in special.values()]

    def conversation(text: str) -> Any:
        part = [{"type": "text", "text": text}]
        return [
            {"role": "system", "content": text, "name": text},
            {"role": "user", "content": part, "name": text},
            {"role": "assistant", "content": f"a{text}b"},
            {"role": "tool", "content": text, "tool_call_id": text},
        ]

    plain = markers(conversation("word"))
    for spelling, token in special.items():
        assert markers(conversation(spelling)) == plain, spelling
        tokens = post(babbling, "/tokenize", {"content": spelling}).json()["tokens"]
        assert token not in tokens
        body = {"messages": [{"role": "user", "content": spelling}], "system": spelling}
        counted = post(babbling, "/v1/messages/count_tokens", body)
        assert counted.json()["input_tokens"] > len(plain) // 4


def test_a_full_queue_says_when_to_come_back(babbling: Serving) -> None:
    import openai

    client = babbling.client()
    streams = [
        client.chat.completions.create(model="endless", messages=HELLO, stream=True)
        for _ in range(2)
    ]
    for stream in streams:
        next(iter(stream))
    with babbling.client() as waiting:
        third = waiting.chat.completions.create(model="endless", messages=HELLO, stream=True)
        next(iter(third))  # the role, said before it begins
        with pytest.raises(openai.RateLimitError) as told:
            client.chat.completions.create(model="endless", messages=HELLO)
        assert told.value.response.headers["retry-after"] == "1"
        third.close()
    for stream in streams:
        stream.close()
    wait_until(lambda: _idle(babbling))


def _idle(server: Serving) -> bool:
    text = WEB.get(f"{server.url}/metrics").text
    return "\nllamacli_requests_processing 0.0" in text


def test_more_answers_than_a_queue_takes_are_refused_for_good(server: Serving) -> None:
    """Clients come back after a 429; a batch would for ever."""
    body = {"prompt": ["x"] * 64, "n": 2, "max_tokens": 1}
    answer = WEB.post(f"{server.url}/v1/completions", json=body)
    assert answer.status_code == 422 and answer.json()["error"]["param"] == "n"


def test_what_nests_too_deeply_is_refused(server: Serving) -> None:
    """Large bodies are read in a thread, which has more of the stack left than their readers."""
    padding = "x" * 300_000
    for depth in (*range(900, 1000, 3), 100_000):
        deep = "[" * depth + "]" * depth
        text = f'{{"user": "{padding}", "messages": [{{"role": "user", "content": {deep}}}]}}'
        answer = WEB.post(f"{server.url}/v1/chat/completions", content=text)
        assert answer.status_code in (400, 422), (depth, answer.text)


def test_one_that_hangs_up_frees_its_sequence(babbling: Serving) -> None:
    import openai

    client = babbling.client()
    for stream in (True, False):
        for _ in range(3):
            if stream:
                answer = client.chat.completions.create(
                    model="endless", messages=HELLO, stream=True
                )
                next(iter(answer))
                answer.close()
            else:
                with pytest.raises(openai.APITimeoutError):
                    client.with_options(timeout=0.3).chat.completions.create(
                        model="endless", messages=HELLO
                    )
    wait_until(lambda: _idle(babbling))
