"""The server as Anthropic's own client sees it."""

import json
from typing import Any

import pytest

from tests.standins.server import Serving

HELLO: Any = [{"role": "user", "content": "Hi"}]
COLD = {"temperature": 0}


@pytest.fixture
def client(server: Serving) -> Any:
    import anthropic

    return anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0)


def test_a_message(client: Any) -> None:
    asked: Any = {"model": "demo", "max_tokens": 50, "extra_body": COLD}
    answer = client.messages.create(**asked, messages=HELLO)
    assert answer.content[0].type == "text" and answer.content[0].text.startswith("Hello!")
    assert answer.stop_reason == "end_turn" and answer.role == "assistant"
    read = answer.usage.input_tokens + (answer.usage.cache_read_input_tokens or 0)
    assert read == 14 and answer.usage.output_tokens > 5
    parts = [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
    assert client.messages.create(**asked, messages=parts).content == answer.content


def test_a_stream_is_the_same_message(client: Any) -> None:
    asked: Any = {"model": "demo", "max_tokens": 50, "extra_body": COLD, "messages": HELLO}
    whole = client.messages.create(**asked)
    with client.messages.stream(**asked) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == final.content[0].text == whole.content[0].text
    assert final.stop_reason == "end_turn"
    assert final.usage.output_tokens == whole.usage.output_tokens
    kinds = [event.type for event in client.messages.create(**asked, stream=True)]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]


def test_why_it_ended(client: Any) -> None:
    asked: Any = {"model": "demo", "extra_body": COLD, "messages": HELLO}
    assert client.messages.create(**asked, max_tokens=2).stop_reason == "max_tokens"
    stopped = client.messages.create(**asked, max_tokens=50, stop_sequences=["never", "demo"])
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "demo")


def test_an_answer_in_json(client: Any) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"],
              "additionalProperties": False}  # fmt: skip
    form: Any = {"format": {"type": "json_schema", "schema": schema}}
    answer = client.messages.create(model="demo", max_tokens=50, messages=HELLO, output_config=form)
    assert set(json.loads(answer.content[0].text)) == {"a"}


def test_counting_and_system(client: Any) -> None:
    plain = client.messages.count_tokens(model="demo", messages=HELLO)
    assert plain.input_tokens == 14
    told = client.messages.count_tokens(model="demo", messages=HELLO, system="Be brief.")
    parts = [{"type": "text", "text": "Be brief."}]
    shape = {"format": {"type": "json_schema", "schema": {"type": "boolean"}}}
    again = client.messages.count_tokens(
        model="demo", messages=HELLO, system=parts, output_config=shape
    )
    assert told.input_tokens == again.input_tokens > 14


def test_what_is_wrong_is_named(client: Any) -> None:
    import anthropic

    asked: Any = {"model": "demo", "max_tokens": 5}
    image = [{"role": "user", "content": [{"type": "image", "source": {}}]}]
    with pytest.raises(anthropic.UnprocessableEntityError, match=r"messages\.0\.content\.0\.type"):
        client.messages.create(**asked, messages=image)
    with pytest.raises(anthropic.UnprocessableEntityError, match="tools"):
        client.messages.create(**asked, messages=HELLO, tools=[{"name": "x y", "input_schema": {}}])
    with pytest.raises(anthropic.NotFoundError, match="there are demo"):
        client.messages.create(model="claude", max_tokens=5, messages=HELLO)
    long: Any = [{"role": "user", "content": "word " * 9000}]
    with pytest.raises(anthropic.BadRequestError, match=r"\d+ tokens, the context \d+"):
        client.messages.create(**asked, messages=long)
