"""/v1/responses, as OpenAI's own client sees it."""

import json
from typing import Any

import pytest

from tests.standins.server import Serving


@pytest.fixture
def client(server: Serving) -> Any:
    return server.client()


def test_a_response(client: Any) -> None:
    answer = client.responses.create(model="demo", input="Hi", temperature=0)
    assert answer.output_text.startswith("Hello!") and answer.status == "completed"
    assert answer.usage.input_tokens == 14 and answer.usage.output_tokens > 5
    parts: Any = [{"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}]
    again = client.responses.create(model="demo", input=parts, temperature=0)
    assert again.output_text == answer.output_text
    followed = client.responses.create(
        model="demo", instructions="Be brief.", max_output_tokens=3, temperature=0,
        input=[*parts, *answer.output, {"role": "user", "content": "And?"}],
    )  # fmt: skip
    assert followed.usage.input_tokens > 30 and followed.status == "incomplete"
    assert followed.incomplete_details.reason == "max_output_tokens"


def test_a_stream_is_the_same_response(client: Any) -> None:
    asked: Any = {"model": "demo", "input": "Hi", "temperature": 0}
    asked |= {
        "include": ["message.output_text.logprobs", "reasoning.encrypted_content"],
        "top_logprobs": 2,
    }
    whole = client.responses.create(**asked)
    events = list(client.responses.create(**asked, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events]
    assert kinds[:4] == ["response.created", "response.in_progress", "response.output_item.added",
                         "response.content_part.added"]  # fmt: skip
    assert kinds[-4:] == ["response.output_text.done", "response.content_part.done",
                          "response.output_item.done", "response.completed"]  # fmt: skip
    text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    final = events[-1].response
    assert text == final.output_text == whole.output_text
    told = final.output[0].content[0].logprobs
    assert len(told) == whole.usage.output_tokens and len(told[0].top_logprobs) == 2
    with client.responses.stream(**asked) as stream:
        assert stream.get_final_response().output_text == text


def test_a_response_in_json(client: Any) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"],
              "additionalProperties": False}  # fmt: skip
    form: Any = {"format": {"type": "json_schema", "name": "x", "schema": schema, "strict": True}}
    answer = client.responses.create(model="demo", input="Hi", text=form)
    assert set(json.loads(answer.output_text)) == {"a"}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"input": []}, "input"),
        ({"input": "Hi", "tools": [{"type": "web_search"}]}, r"tools\.0\.type"),
        ({"input": "Hi", "previous_response_id": "resp_1"}, "previous_response_id"),
        ({"input": "Hi", "truncation": "auto"}, "truncation"),
        ({"input": [{"type": "function_call_output"}]}, r"input\.0\.call_id"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
         r"input\.0\.content\.0\.type"),
        ({"input": "Hi", "include": ["file_search_call.results"]}, "include"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_named(client: Any, body: Any, field: str) -> None:
    import openai

    with pytest.raises(openai.UnprocessableEntityError, match=field):
        client.responses.create(model="demo", **body)
