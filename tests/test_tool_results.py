"""Results of tools are text, whatever way they come, and a chat that has them is gone on with."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llamacli.answer import Calling
from llamacli.chat import ChatSession, final_answer
from llamacli.chat.saved import create, restore_cache, save_cache
from llamacli.commands import groups
from llamacli.commands.answering import answer_with_servers
from llamacli.engine import Engine, EngineSettings, SamplingSettings, common_prefix
from llamacli.mcp_client.connection import Outcome
from llamacli.repl.state import Repl
from llamacli.repl.tools import make_calls
from llamacli.serve.anthropic import MessageAnswer
from llamacli.serve.chat import ChatAnswer
from llamacli.serve.fields import Fields
from llamacli.serve.responses import ResponseAnswer
from llamacli.tools import check_tools, read_tools
from tests.saved import HEAD, refuse, reopened
from tests.standins.tiny import write_model
from tests.standins.vocabulary import TOOL_TEMPLATE, control_tokens, small_tokenizer

ECHO = {"name": "echo", "parameters": {"type": "object", "properties": {}}}
ASKED = {"role": "user", "content": "x"}
SPELLED = "".join(control_tokens())


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    path = tmp_path_factory.mktemp("results") / "tiny.gguf"
    write_model(path, tokenizer=small_tokenizer(), template=TOOL_TEMPLATE, context=32_768)
    with Engine(path, EngineSettings(context=32_768, threads=1)) as engine:
        yield engine


def session(engine: Engine) -> ChatSession:
    given = [{"type": "function", "function": ECHO}]
    calling = Calling(check_tools(given), "required", parallel=False, threshold=1.0)
    return ChatSession(engine, SamplingSettings(seed=1), max_tokens=40, offer=calling)


def by_chat(engine: Engine, text: str) -> list[int]:
    chat = session(engine)
    list(chat.send("x"))
    repl = Repl(chat, "tiny", lambda *_: engine)
    repl.read = lambda prompt, begin: text
    assert make_calls(repl)
    return chat.prompt_tokens()


def by_mcp(engine: Engine, text: str) -> list[int]:
    """As run does it; the last answer's tokens are random, so they are left out."""
    chat = session(engine)
    servers: Any = SimpleNamespace(
        allowed={"echo"}, call=lambda *_: Outcome(text), changed=lambda: ()
    )
    answer_with_servers(chat, servers, "x", groups.Output(quiet=True))
    chat.conversation = type(chat.conversation)(tuple(chat.messages[:-1]))
    return chat.prompt_tokens()


def by_completions(engine: Engine, text: str) -> list[int]:
    call = {"id": "1", "type": "function", "function": {"name": "echo", "arguments": "{}"}}
    messages = [
        ASKED,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": text},
    ]
    body = {"messages": messages, "tools": [{"type": "function", "function": ECHO}]}
    return asked(engine, ChatAnswer.read, body)


def by_responses(engine: Engine, text: str) -> list[int]:
    items = [
        ASKED,
        {"type": "function_call", "call_id": "1", "name": "echo", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "1", "output": text},
    ]
    return asked(
        engine, ResponseAnswer.read, {"input": items, "tools": [{"type": "function", **ECHO}]}
    )


def by_messages(engine: Engine, text: str) -> list[int]:
    call = {"type": "tool_use", "id": "1", "name": "echo", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "1", "content": text}
    messages = [
        ASKED,
        {"role": "assistant", "content": [call]},
        {"role": "user", "content": [result]},
    ]
    tools = [{"name": "echo", "input_schema": ECHO["parameters"]}]
    return asked(
        engine, MessageAnswer.read, {"messages": messages, "tools": tools, "max_tokens": 9}
    )


def asked(engine: Engine, read: Callable[[Fields], Any], body: dict[str, Any]) -> list[int]:
    """The tokens that a request's prompt has in the server."""
    ask = read(Fields(body))
    tokens: list[int] = ask.encode(engine, ask.prompts[0])
    return tokens


@pytest.mark.parametrize("way", [by_chat, by_mcp, by_completions, by_responses, by_messages])
def test_no_result_becomes_a_control_token(
    engine: Engine, way: Callable[[Engine, str], list[int]]
) -> None:
    """All 256 spellings in one result, close together: the prompt has the template's alone."""
    controls = engine.vocabulary.control_tokens
    assert len(controls) == 256

    def template_has(text: str) -> list[int]:
        tokens = way(engine, text)
        assert text in engine.vocabulary.text_of(tokens)
        return [token for token in tokens if token in controls]

    assert template_has(SPELLED) == template_has("word")


@pytest.mark.parametrize("way", [by_chat, by_mcp])
def test_a_result_that_is_no_unicode_ends_no_chat(
    engine: Engine, way: Callable[[Engine, str], list[int]]
) -> None:
    """As of keys that aren't UTF-8: no later prompt could be made."""
    assert "a?b" in engine.vocabulary.text_of(way(engine, "a\udcffb"))


def test_a_resumed_chat_with_calls_reads_none_of_it_again(demo: Path) -> None:
    """As many tokens are evaluated for the next question as where the chat had never stopped."""
    root = Path(__file__).parents[1]
    tools = read_tools((root / "demo" / "tools.json").read_text(), "tools.json")
    sampling = SamplingSettings(temperature=0)
    log = create("one", HEAD, refuse)
    with Engine(demo, EngineSettings(threads=1)) as engine:
        first = ChatSession(engine, sampling, offer=Calling(tools), record=log.record)
        list(final_answer(first, "How large will 70B be on my disk?", lambda *_: "42.5 GB"))
        roles = [m["role"] for m in first.messages]
        calls = roles[1:-1]  # one, or several where the model asks again
        assert roles[0] == "user" and roles[-1] == "assistant"
        assert calls and calls == ["assistant", "tool"] * (len(calls) // 2)
        assert save_cache(engine, log.name) is None
        log.close()
        conversation, first.record = first.conversation, lambda _: None
        list(first.send("Thank you"))
        engine.keep(0)

        saved = reopened()
        assert saved.conversation == conversation
        second = ChatSession(engine, sampling, saved.conversation, offer=Calling(tools))
        before = second.prompt_tokens()
        assert restore_cache(engine, saved.name, before) is None
        list(second.send("Thank you"))
        assert second.last is not None
        evaluated = second.last.prompt_tokens - second.last.cached_tokens
        same = common_prefix(before, second.prompt_tokens())
        assert second.last.cached_tokens >= same - 2  # the answer's end, the next one's head
        assert first.last is not None
        assert evaluated == first.last.prompt_tokens - first.last.cached_tokens
        assert first.conversation == second.conversation
