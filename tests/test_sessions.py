"""Saved chats: what comes back, whose they are, which is the latest, where nothing can be saved."""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from llamacli.chat.conversation import Step, assistant, replay, user
from llamacli.chat.export import export_json, export_markdown
from llamacli.chat.file import SessionHead
from llamacli.chat.saved import create, names, resume
from llamacli.cli import main
from llamacli.errors import LlamacliError, NotFoundError, OutputError, UsageError
from llamacli.prompt import read_messages
from llamacli.repl.saved import resume as resume_in_chat, show_sessions
from llamacli.repl.state import Repl
from tests.saved import HEAD, STEPS, file_of, refuse, reopened, saved, write
from tests.systems import needs_limits, needs_owners, needs_pipes


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
    session.log.record(SessionHead("other", "Q4_K_M").line())
    session.log.close()
    assert file_of(store).read_bytes().startswith(before)
    again = reopened()
    assert again.conversation.messages[-1] == user("sechs") and again.head.model == "other"


def test_killed_chat_can_be_gone_on_with(store: Path) -> None:
    """The lock goes with the process, what was recorded stays."""
    code = (
        "import os, sys; from llamacli.chat.file import SessionHead\n"
        "from llamacli.chat.saved import create\n"
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
        child.kill()
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


def test_list_marks_what_cannot_be_read(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved("good", [user("a \x1b[31m long\nquestion " + "x" * 200), assistant("b"), user("c")])
    write(store, b"\x00\xff\n" * 9, "bad")
    write(store, b"{}\n", "not ours")
    (store / "sessions" / "folder.jsonl").mkdir()
    show_sessions(cast(Repl, SimpleNamespace(log=SimpleNamespace(name="good"))), "")
    by_name = {line[2:].split()[0]: line for line in capsys.readouterr().err.splitlines()}
    assert set(by_name) == {"good", "bad"}
    assert re.fullmatch(
        r"\* good  [\d-]+ [\d:]+  2 turns  demo  a \\x1b\[31m long question x{10,}…",
        by_name["good"],
    )
    assert by_name["bad"].startswith("  bad ") and "not a session" in by_name["bad"]


@needs_pipes
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
    with pytest.raises(OutputError, match=r"a session in .*/sessions can't be saved"):
        create(None, HEAD, refuse)
    assert names() == []


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


@needs_owners
def test_read_only_session_goes_on_unsaved(read_only: Path) -> None:
    session = resume(None, refuse)
    assert session.log is None and session.conversation == replay(STEPS)
    assert "nothing is saved" in session.notices[-1]
    with pytest.raises(OutputError, match="Permission denied"):
        create(None, HEAD, refuse)


def test_without_saving_a_session_is_only_read(store: Path) -> None:
    """Not even a line that was cut is mended, and another chat may have it open."""
    saved()
    cut = file_of(store).read_bytes()[:-5]
    write(store, cut)
    read = resume_in_chat("one", keep=False)
    assert read.log is None and read.conversation == replay(STEPS[:-1])
    assert file_of(store).read_bytes() == cut
    log = create("two", HEAD, refuse)
    assert resume_in_chat("two", keep=False).log is None
    log.close()


@needs_limits
def test_full_disk_is_told_once_and_leaves_a_whole_conversation(store: Path) -> None:
    told: list[str] = []
    log = create("one", HEAD, told.append)
    log.record(user("a"))
    import resource

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


CALLED: list[Step] = [
    user("Wie spät ist es?"),
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": "call_0",
                "type": "function",
                "function": {"name": "now", "arguments": {"zone": "Ötztal"}},
            }
        ],
    },
    {"role": "tool", "name": "now", "tool_call_id": "call_0", "content": "12:00 \u2028 ```"},
    assistant("Zwölf."),
]


def test_export_as_json_is_openais_and_is_read_again() -> None:
    """A call's arguments are a text there; --results makes the same conversation of it."""
    text = export_json(CALLED)
    listed = json.loads(text)
    assert [message["role"] for message in listed] == ["user", "assistant", "tool", "assistant"]
    (call,) = listed[1]["tool_calls"]
    assert call["function"] == {"name": "now", "arguments": '{"zone": "Ötztal"}'}
    assert listed[2]["tool_call_id"] == call["id"] == "call_0"
    assert read_messages(text, "x") == CALLED


def test_a_saved_chat_is_exported_by_the_command(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a model or a terminal, also while another chat has it open."""

    def exported(*words: str | Path, code: int = 0) -> str:
        with pytest.raises(SystemExit) as ended:
            main(["chat", *map(str, words)])
        assert (ended.value.code or 0) == code
        return capsys.readouterr().out

    saved("other")
    saved("calls", CALLED)
    session = resume("calls", refuse)
    path = tmp_path / "calls.json"
    assert not exported("--resume", "calls", "--export", path)
    assert path.read_text(encoding="utf-8") == export_json(CALLED)
    assert exported("--resume", "calls", "--export", "-") == export_markdown(HEAD, CALLED)
    before = file_of(store, "calls").read_bytes()
    assert session.log is not None
    session.log.close()
    exported("--resume", "calls", "--export", path, code=2)  # it is there already
    exported("--resume", "none", "--export", tmp_path / "new", code=4)
    exported("--export", tmp_path / "new", code=2)
    assert path.read_text(encoding="utf-8") == export_json(CALLED)
    assert file_of(store, "calls").read_bytes() == before
