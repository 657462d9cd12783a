"""Sessions' files: a cut costs the step under way, a damage its line, and none crashes a chat."""

import random
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from llamacli.chat.conversation import Conversation, assistant, replay, user
from llamacli.chat.file import MAX_FILE, MAX_LINE, SAMPLING, SessionHead, sound_settings
from llamacli.chat.saved import resume
from llamacli.engine.sampling import SamplingSettings
from llamacli.errors import InvalidModelError
from llamacli.prompt.messages import ROLES
from llamacli.repl.saved import show_sessions
from llamacli.repl.state import Repl
from tests.saved import HEAD, STEPS, file_of, line, refuse, reopened, saved, write


def test_cut_at_every_byte_loses_at_most_the_step_under_way(store: Path) -> None:
    saved()
    data = file_of(store).read_bytes()
    lines = data.splitlines(keepends=True)
    for size in range(len(data) + 1):
        write(store, data[:size])
        whole = data[:size].count(b"\n")
        rest = data[:size].rpartition(b"\n")[2]
        complete = rest + b"\n" in lines
        session = resume("one", refuse)
        assert session.conversation == replay(STEPS[: max(0, whole + complete - 1)])
        assert session.head == (HEAD if whole + complete else SessionHead())
        assert any("cut off" in text for text in session.notices) == bool(rest and not complete)
        assert session.log is not None
        if complete or size % 4 == 0:  # syncing to a disk takes its time
            session.log.record(user("und weiter"))
            session.log.close()
            again = reopened()
            assert again.conversation.messages[-1] == user("und weiter")
            assert len(again.notices) <= (0 if whole + complete else 1)
        session.log.close()


def test_damage_anywhere_costs_no_more_than_its_line(store: Path) -> None:
    saved()
    data = file_of(store).read_bytes()
    generator = random.Random(0)
    for _ in range(400):
        bad = bytearray(data)
        for _ in range(generator.randrange(1, 4)):
            bad[generator.randrange(len(bad))] = generator.randrange(256)
        write(store, bytes(bad))
        try:
            session = reopened()
        except InvalidModelError as error:  # the first line's number
            assert "newer" in str(error)
            continue
        for message in session.conversation.messages:
            assert message["role"] in ROLES and isinstance(message["content"], str)


@pytest.mark.parametrize(
    "bad",
    [
        b"\xff\xfe\n",
        b"[" * 100_000 + b"\n",
        b"1" * 10_000 + b"\n",
        b'{"role": "user", "content": "\\ud800"}\n',
        line({"role": "user"}),
        line({"role": "root", "content": "x"}),
        line({"role": "user", "content": 1}),
        line({"role": ["user"], "content": "x"}),
        line({"role": "user", "content": "x", "more": 1}),
        line({"event": "forget", "messages": -1}),
        line({"event": "forget", "messages": True}),
        line({"event": "edit"}),
        line({"event": "system", "content": []}),
        line({"event": {"undo": 1}}),
        line({"session": "1"}),
        line([]) + line(None) + line("x") + line(1.5),
        b"NaN\n",
        line({"role": "assistant", "tool_calls": [{"function": {"name": "x", "arguments": "1"}}]}),
        line({"event": "system", "content": float("nan")}),
        b'{"role": "user", "content": "' + b"x" * MAX_LINE + b'"}\n',
    ],
)
def test_hostile_lines_are_skipped_with_a_notice(store: Path, bad: bytes) -> None:
    write(store, line(HEAD.line()) + line(user("a")) + bad + line(assistant("b")))
    session = reopened()
    assert session.conversation.messages == (user("a"), assistant("b"))
    assert len(session.notices) == 1 and session.notices[0].startswith("its line 3")


def test_messages_are_read_as_templates_want_them(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A text in parts, and a call's arguments as JSON, which OpenAI's messages may have."""
    function = {"name": "now", "arguments": '{"zone": "x"}'}
    call = {"role": "assistant", "tool_calls": [{"id": "call_0", "function": function}]}
    parts = {"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}
    steps = [{"role": "system", **parts}, {"role": "user", **parts}, call]
    steps += [{"role": "tool", **parts}, {"event": "regenerate", **parts}, call]
    write(store, line(HEAD.line()) + b"".join(map(line, steps)))
    show_sessions(cast(Repl, SimpleNamespace(log=None)), "")
    assert capsys.readouterr().err.rstrip().endswith("1 turn  demo  ab")
    *texts, called = reopened().conversation.messages
    assert [message["content"] for message in texts] == ["ab"] * 3 and texts[-1] == assistant("ab")
    assert called["tool_calls"][0]["function"]["arguments"] == {"zone": "x"}


def test_absurd_counts_are_harmless(store: Path) -> None:
    steps = [user("a"), {"event": "forget", "messages": 10**30}, *[{"event": "undo"}] * 3]
    write(store, line(HEAD.line()) + b"".join(map(line, steps)))
    assert reopened().conversation == Conversation()


def test_settings_of_strangers_are_checked() -> None:
    sampling = {name: getattr(SamplingSettings(seed=7), name) for name in SAMPLING}
    sound = {**sampling, "max_tokens": 9, "context": 512, "stop": ["a"]}
    assert sound_settings(sound) == sound
    wrong = {
        "temperature": "hot", "top_k": 1.5, "top_p": 7, "min_p": float("nan"), "seed": 10**400,
        "repeat_penalty": True, "repeat_last_n": 2.0, "max_tokens": 0, "context": 1 << 40,
        "stop": ["", "x"], "__class__": 1, "model": "x",
    }  # fmt: skip
    assert sound_settings(wrong) == {} == sound_settings([1]) == sound_settings(None)


def test_a_head_of_a_stranger_is_checked(store: Path) -> None:
    for model in (["x"], "\x1b]0;title\x07", "", "a\nb"):
        head = {"session": 1, "model": model, "quantization": "y" * 10**5, "settings": "z"}
        write(store, line(head) + line(user("a")))
        assert reopened().head == SessionHead()


def test_newer_and_foreign_files_are_refused_untouched(store: Path) -> None:
    for data, told in ((line({"session": 2}), "newer"), (b"notes of mine\n", "not a session")):
        path = write(store, data + line({"x": 1}))
        with pytest.raises(InvalidModelError, match=told):
            resume("one", refuse)
        assert path.read_bytes() == data + line({"x": 1})


def test_gigabyte_lines_are_refused(store: Path) -> None:
    path = write(store, line(HEAD.line()))
    with path.open("r+b") as file:
        file.truncate(1 << 30)
    with pytest.raises(InvalidModelError, match=f"more than {MAX_FILE} bytes"):
        resume("one", refuse)


def test_many_steps_take_no_longer_than_they_are_many(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What would take hours if each step cost as much as the conversation is long."""
    count = 30_000
    write(store, line(HEAD.line()) + line(user("a")) * count + line({"event": "undo"}) * count)
    assert reopened().conversation == Conversation()
    monkeypatch.setattr("llamacli.chat.file.MAX_LINES", 2 * count)
    with pytest.raises(InvalidModelError, match="60000 lines"):
        resume("one", refuse)


def test_system_messages_stand_in_for_the_system_prompt() -> None:
    steps = [user("a"), {"role": "system", "content": "s"}, assistant("b")]
    conversation = saved(steps=steps)
    assert conversation.system == ({"role": "system", "content": "s"},)
    assert conversation.body == (user("a"), assistant("b"))
    assert replay(conversation.steps()) == conversation
