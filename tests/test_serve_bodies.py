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
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from tests.standins.server import Serving, serving

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
    with httpx2.Client(timeout=60) as client:

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
    return some.tuples(*parts).map(lambda found: {k: v for part in found for k, v in part.items()})


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
            capture_output=True, text=True, timeout=120, env=environment, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.stdout.startswith("Hello!"), done.stderr
