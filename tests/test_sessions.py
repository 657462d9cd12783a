"""Saved chats: nothing that was said is lost to a cut, and no file can crash a chat."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from llamacli.chat import ChatSession
from llamacli.conversation import Conversation, Step, assistant, replay, user
from llamacli.engine import Engine
from llamacli.errors import (
    InvalidModelError,
    LlamacliError,
    NotFoundError,
    OutputError,
    UsageError,
)
from llamacli.loading import EngineSettings
from llamacli.messages import ROLES
from llamacli.sampling import SamplingSettings
from llamacli.session_file import MAX_FILE, MAX_LINE, sound_settings
from llamacli.sessions import (
    Session,
    SessionHead,
    create,
    export_markdown,
    list_sessions,
    names,
    restore_cache,
    resume,
    save_cache,
)
from tests.tiny import write_model

HEAD = SessionHead("demo", "Q8_0", {"temperature": 0.0, "max_tokens": 6, "stop": ["###"]})
STEPS: list[Step] = [
    {"event": "system", "content": "Sei kurz, 漢字 🦙"},
    user("Grüße\nin zwei Zeilen"),
    assistant("Hallo, \u2028 <|eot_id|>"),
    user("zwei"),
    assistant(""),
    {"event": "regenerate", "content": "2"},
    {"event": "edit", "content": "drei"},
    assistant("3"),
    {"event": "forget", "messages": 2},
    user("vier"),
    {"event": "undo"},
    user("fünf"),
    assistant("5"),
]


def refuse(text: str) -> None:
    raise AssertionError(text)


def saved(name: str = "one", steps: list[Step] = STEPS) -> Conversation:
    """Write a session; the conversation that it holds."""
    log = create(name, HEAD, refuse)
    for step in steps:
        log.record(step)
    log.close()
    return replay(steps)


def reopened(name: str | None = "one") -> Session:
    """The session, its lock let go again."""
    session = resume(name, refuse)
    if session.log is not None:
        session.log.close()
    return session


def file_of(store: Path, name: str = "one") -> Path:
    return store / "sessions" / f"{name}.jsonl"


def write(store: Path, data: bytes, name: str = "one") -> Path:
    file_of(store, name).parent.mkdir(parents=True, exist_ok=True)
    file_of(store, name).write_bytes(data)
    return file_of(store, name)


def test_what_was_saved_comes_back() -> None:
    conversation = saved()
    session = reopened()
    assert (session.conversation, session.head, session.notices) == (conversation, HEAD, ())
    assert session.conversation.forgotten == 2 and len(session.conversation.messages) == 7


def test_each_step_is_there_at_once(store: Path) -> None:
    log = create("one", HEAD, refuse)
    for count, step in enumerate(STEPS, 2):
        log.record(step)
        assert len(file_of(store).read_text("utf-8").split("\n")) == count + 1
    log.close()


def test_going_on_appends(store: Path) -> None:
    saved()
    before = file_of(store).read_bytes()
    session = resume("one", refuse)
    assert session.log is not None
    session.log.record(user("sechs"))
    session.log.record_head(SessionHead("other", "Q4_K_M"))
    session.log.close()
    assert file_of(store).read_bytes().startswith(before)
    again = reopened()
    assert again.conversation.messages[-1] == user("sechs") and again.head.model == "other"


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


def test_killed_chat_can_be_gone_on_with(store: Path) -> None:
    """The lock goes with the process, what was recorded stays."""
    code = (
        "import os, sys; from llamacli.sessions import SessionHead, create\n"
        "log = create('one', SessionHead('demo'), print)\n"
        "log.record({'role': 'user', 'content': 'hello'}); print('ready', flush=True)\n"
        "sys.stdin.read()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdin is not None and child.stdout is not None
    with child.stdin, child.stdout:
        assert child.stdout.readline() == "ready\n"
        with pytest.raises(UsageError, match="another chat has the session one open"):
            resume("one", refuse)
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert reopened(None).conversation.messages == (user("hello"),)


def test_two_chats_cannot_write_one_session() -> None:
    log = create("one", HEAD, refuse)
    log.record(user("x"))
    with pytest.raises(UsageError, match="another chat"):
        resume("one", refuse)
    with pytest.raises(UsageError, match="go on with it by --resume one"):
        create("one", HEAD, refuse)
    log.close()
    assert reopened().conversation.messages == (user("x"),)


def test_names_by_time_never_meet() -> None:
    logs = [create(None, HEAD, refuse) for _ in range(5)]
    assert len({log.name for log in logs}) == 5
    for log in logs:
        log.close()


@pytest.mark.parametrize("name", ["", ".x", "../x", "a/b", "x" * 65, "a b", "ü", "a\n"])
def test_odd_names_are_refused(name: str) -> None:
    for act in (lambda: create(name, HEAD, refuse), lambda: resume(name, refuse)):
        with pytest.raises(UsageError, match="a session's name has"):
            act()


def test_chat_without_a_question_leaves_no_file() -> None:
    log = create("one", HEAD, refuse)
    log.record({"event": "system", "content": "s"})
    log.close()
    assert names() == []
    with pytest.raises(NotFoundError, match="no saved chat"):
        resume(None, refuse)


def test_unknown_name_is_told_with_the_nearest() -> None:
    saved("holiday")
    with pytest.raises(NotFoundError, match="did you mean holiday"):
        resume("holidays", refuse)


def test_latest_is_the_one_written_to_last_whatever_the_clock_says(store: Path) -> None:
    for name in ("first", "second", "third"):
        saved(name)
    future = 4_000_000_000
    os.utime(file_of(store, "first"), (future, future))  # written before the clock was set back
    assert reopened(None).name == "third"
    session = resume("second", refuse)
    assert session.log is not None
    session.log.record(user("x"))
    session.log.close()
    assert reopened(None).name == "second"
    file_of(store, "second").unlink()
    assert reopened(None).name == "first"
    (store / "sessions" / "latest").write_bytes(b"\xff/../" * 99)
    assert reopened(None).name == "first"


def test_list_marks_what_cannot_be_read(store: Path) -> None:
    saved("good", [user("a \x1b[31m long\nquestion " + "x" * 200), assistant("b"), user("c")])
    write(store, b"\x00\xff\n" * 9, "bad")
    write(store, b"{}\n", "not ours")
    (store / "sessions" / "folder.jsonl").mkdir()
    found = {info.name: info for info in list_sessions()}
    assert set(found) == {"good", "bad"}
    assert found["good"].turns == 2 and found["good"].model == "demo"
    assert found["good"].first.startswith("a \x1b[31m long question xxx")
    assert len(found["good"].first) == 60 and found["good"].problem is None
    assert "not a session" in str(found["bad"].problem)


def line(value: Any) -> bytes:
    return json.dumps(value).encode() + b"\n"


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
        b'{"role": "user", "content": "' + b"x" * MAX_LINE + b'"}\n',
    ],
)
def test_hostile_lines_are_skipped_with_a_notice(store: Path, bad: bytes) -> None:
    write(store, line(HEAD.line()) + line(user("a")) + bad + line(assistant("b")))
    session = reopened()
    assert session.conversation.messages == (user("a"), assistant("b"))
    assert len(session.notices) == 1 and session.notices[0].startswith("its line 3")


def test_absurd_counts_are_harmless(store: Path) -> None:
    steps = [user("a"), {"event": "forget", "messages": 10**30}, *[{"event": "undo"}] * 3]
    write(store, line(HEAD.line()) + b"".join(map(line, steps)))
    assert reopened().conversation == Conversation()


def test_settings_of_strangers_are_checked() -> None:
    sound = {**asdict(SamplingSettings(seed=7)), "max_tokens": 9, "context": 512, "stop": ["a"]}
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
    monkeypatch.setattr("llamacli.session_file.MAX_LINES", 2 * count)
    with pytest.raises(InvalidModelError, match="60000 lines"):
        resume("one", refuse)


def test_system_messages_stand_in_for_the_system_prompt() -> None:
    steps = [user("a"), {"role": "system", "content": "s"}, assistant("b")]
    conversation = saved(steps=steps)
    assert conversation.system == ({"role": "system", "content": "s"},)
    assert conversation.body == (user("a"), assistant("b"))
    assert replay(conversation.steps()) == conversation


def test_pipes_and_folders_are_no_sessions(store: Path) -> None:
    saved()
    os.mkfifo(file_of(store, "pipe"))
    file_of(store, "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(NotFoundError):
            resume(name, refuse)
    assert names() == ["one"]


def test_store_that_cannot_be_written_is_told(store: Path) -> None:
    store.mkdir()
    (store / "sessions").write_text("in the way")
    with pytest.raises(OutputError, match=r"no session can be saved in .*/sessions"):
        create(None, HEAD, refuse)
    assert list_sessions() == []


@pytest.fixture
def read_only(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A store with a session, which this process may read but not write, even as root."""
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder)
        monkeypatch.setenv("LLAMACLI_HOME", folder)
        saved()
        root = os.geteuid() == 0
        for path, mode in ((store, 0o555), (store / "sessions", 0o555), (file_of(store), 0o444)):
            path.chmod(mode)
        if root:
            os.seteuid(65534)
        try:
            yield store
        finally:
            if root:
                os.seteuid(0)
            for path in (store, store / "sessions"):
                path.chmod(0o755)


def test_read_only_session_goes_on_unsaved(read_only: Path) -> None:
    session = resume(None, refuse)
    assert session.log is None and session.conversation == replay(STEPS)
    assert "nothing is saved" in session.notices[-1]
    with pytest.raises(OutputError, match="Permission denied"):
        create(None, HEAD, refuse)


def test_full_disk_is_told_once_and_leaves_a_whole_conversation(store: Path) -> None:
    told: list[str] = []
    log = create("one", HEAD, told.append)
    log.record(user("a"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_of(store).stat().st_size + 20, limits[1]))
    try:
        log.record(assistant("b" * 100))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    log.record(user("c"))
    log.close()
    assert len(told) == 1 and "what follows isn't saved" in told[0]
    session = reopened()
    assert session.conversation.messages == (user("a"),) and "cut off" in session.notices[0]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.fixture
def engine(model: Path) -> Iterator[Engine]:
    with Engine(model, EngineSettings(context=256, threads=1)) as loaded:
        yield loaded


def talk(engine: Engine, *questions: str) -> ChatSession:
    """A saved chat named one, its KV cache beside it, and the engine's cache empty again."""
    log = create("one", HEAD, refuse)
    chat = ChatSession(engine, SamplingSettings(temperature=0), max_tokens=8, record=log.record)
    for question in questions:
        list(chat.send(question))
    assert save_cache(engine, log.name) is None
    log.close()
    engine.keep(0)
    return chat


def go_on(engine: Engine) -> tuple[ChatSession, str | None]:
    session = reopened()
    sampling = SamplingSettings(temperature=0)
    chat = ChatSession(engine, sampling, session.conversation, max_tokens=8)
    return chat, restore_cache(engine, session.name, chat.prompt_tokens())


def test_resumed_chat_reads_only_what_is_new(engine: Engine) -> None:
    first = talk(engine, "one two three", "four five six")
    chat, problem = go_on(engine)
    assert problem is None and chat.conversation == first.conversation
    list(chat.send("seven"))
    assert chat.last is not None and chat.last.cached_tokens > 50
    list(first.send("seven"))
    assert chat.conversation == first.conversation


def test_cache_of_an_earlier_state_is_used_as_far_as_it_holds(engine: Engine, store: Path) -> None:
    talk(engine, "one two three", "four five six")
    session = resume("one", refuse)
    assert session.log is not None
    for step in (user("x"), assistant("y"), {"event": "undo"}, {"event": "undo"}, user("z")):
        session.log.record(step)  # the chat was killed before its end
    session.log.close()
    chat, problem = go_on(engine)
    list(chat.regenerate())
    assert problem is None and chat.last is not None and 30 < chat.last.cached_tokens < 60


def test_wrong_caches_are_told_and_not_used(
    engine: Engine, model: Path, store: Path, tmp_path: Path
) -> None:
    talk(engine, "one two three", "four five six")
    path = store / "sessions" / "one.kv"
    good = path.read_bytes()
    flipped = bytearray(good)
    flipped[-9] ^= 1
    for data, told in (
        (bytes(flipped), "damaged"),
        (good[:-1], "damaged"),
        (b"", "not a saved KV cache"),
        (b"x" * 999, "not a saved KV cache"),
    ):
        path.write_bytes(data)
        _, problem = go_on(engine)
        assert problem is not None and problem.startswith("the KV cache of one is not used")
        assert told in problem
        assert engine.tokens == []
    path.write_bytes(good)
    other = write_model(tmp_path / "other.gguf", seed=1)
    with Engine(other, engine.settings) as second:
        assert "another model" in str(go_on(second)[1])
    with Engine(model, EngineSettings(threads=1, flash_attention="off")) as second:
        assert "other settings" in str(go_on(second)[1])
    file_of(store).unlink()
    saved("one", [user("all else")])
    assert "not those of this conversation" in str(go_on(engine)[1])


def test_cache_that_cannot_be_saved_is_told(
    engine: Engine, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk(engine, "one two three", "four five six")
    (store / "sessions" / "one.kv").unlink()
    (store / "sessions" / "one.kv").mkdir()
    engine.prefill(list(range(3, 50)))
    assert "isn't saved" in str(save_cache(engine, "one"))
    monkeypatch.setenv("LLAMACLI_CACHE_MIB", "many")
    assert "MiB" in str(save_cache(engine, "two"))
    monkeypatch.setenv("LLAMACLI_CACHE_MIB", "0")
    assert save_cache(engine, "two") is None and not (store / "sessions" / "two.kv").exists()


def test_errors_are_single_lines(store: Path) -> None:
    write(store, b"x\n", "bad")
    for name in ("bad", "none", "od d"):
        with pytest.raises(LlamacliError) as caught:
            resume(name, refuse)
        assert "\n" not in str(caught.value)


def test_export_is_markdown() -> None:
    messages = [user("  Hi "), assistant("```py\nx = 1"), user("```\ny\n```")]
    assert export_markdown(HEAD, messages) == (
        "# A chat with demo, Q8_0\n\n## User\n\nHi\n\n## Assistant\n\n```py\nx = 1\n```\n\n"
        "## User\n\n```\ny\n```\n"
    )
    assert "unknown model" in export_markdown(SessionHead(), [])
