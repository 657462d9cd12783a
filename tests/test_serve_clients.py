"""run, chat and batch as clients of the user's own server, by its socket."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from llamacli.answer import Chunk
from llamacli.serve import ask_server
from tests.standins.server import Serving, serving

GREEDY: dict[str, Any] = {"sampling": {}, "temperature": 0}


@pytest.fixture(scope="module")
def server(demo: Path) -> Iterator[Serving]:
    with serving("-m", demo) as started:
        yield started


@pytest.fixture(autouse=True)
def reached(server: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(server.runtime))


def test_a_loaded_model_answers(demo: Path) -> None:
    messages = [{"role": "user", "content": "Hi"}]
    found = ask_server(demo, {"messages": messages, "temperature": 0, "exact": True})
    assert found is not None and found.head["prompt_tokens"] == 14
    chunks: list[Chunk] = list(found.chunks())
    result = chunks[-1].result
    assert result is not None and result.text == "".join(chunk.text for chunk in chunks)
    assert result.text.startswith("Hello!") and result.finish_reason == "stop"


def test_a_shape_is_kept(demo: Path) -> None:
    asked = {"prompt": "x", "shape": {"choice": ["yes", "no"]}}
    found = ask_server(demo, asked)
    assert found is not None and list(found.chunks())[-1].result.text in ("yes", "no")


def test_another_file_is_not_answered_for(demo: Path, tmp_path: Path) -> None:
    copy = tmp_path / "demo.gguf"
    copy.write_bytes(demo.read_bytes())
    assert ask_server(copy, {"prompt": "x"}) is None


def test_nobody_listens(demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "none"))
    assert ask_server(demo, {"prompt": "x"}) is None


def test_the_port_does_not_answer_so(server: Serving, demo: Path) -> None:
    body = {"file": str(demo), "identity": [], "prompt": "x"}
    assert httpx2.post(f"{server.url}/own/answer", content=json.dumps(body)).status_code == 404
