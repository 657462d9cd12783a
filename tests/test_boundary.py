"""One boundary for exceptions: the system's, Python's and the converter's as the exit codes say."""

import ctypes
import errno
import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

import llamacli.models.opening as opening
from convert import CheckpointError, SourceError, TargetError, check_target
from llamacli import cli
from llamacli.chat.conversation import Conversation, user
from llamacli.chat.saved import create
from llamacli.chat.turns import ChatSession
from llamacli.commands.batch import check_output, open_output
from llamacli.engine.engine import Engine
from llamacli.engine.model import in_background
from llamacli.engine.sampling import SamplingSettings
from llamacli.engine.settings import EngineSettings
from llamacli.errors import LlamacliError, NotFoundError, OutputError, named, told, writing
from llamacli.home import NOWHERE, config_folder, expanded, home
from llamacli.repl.loop import turn
from llamacli.repl.saved import begin_log
from llamacli.repl.state import Repl
from llamacli.terminal import notice
from tests.saved import HEAD, refuse
from tests.standins.tiny import write_model
from tests.standins.waiting import PATIENCE, wait_until
from tests.systems import WINDOWS, needs_limits, needs_pipes
from tests.terminal import PROGRAM, Terminal
from tests.test_cli import llamacli

LONG = "a" * 300  # longer than a file's name may be


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "tiny.gguf")


def code(error: BaseException) -> int:
    error_named = named(error)
    assert isinstance(error_named, LlamacliError), error_named
    return error_named.exit_code


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOENT, 4), (errno.EACCES, 4), (errno.ENAMETOOLONG, 4), (errno.ELOOP, 4),
        (errno.ENOTDIR, 4), (errno.EIO, 4), (errno.ECONNREFUSED, 4), (errno.EISDIR, 2),
        (errno.ENOSPC, 6), (errno.EDQUOT, 6), (errno.EFBIG, 6), (errno.EROFS, 6),
        (errno.ENOMEM, 5), (errno.EMFILE, 5), (errno.ENFILE, 5),
    ],
)  # fmt: skip
def test_every_system_error_has_its_code(number: int, expected: int) -> None:
    for error in (OSError(number, os.strerror(number)), OSError(number, "why", "some/file")):
        assert code(error) == expected
    with pytest.raises((OutputError, OSError)) as raised, writing("out"):
        raise OSError(number, os.strerror(number), "out")
    assert code(raised.value) == (5 if expected == 5 else 6)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError("no number at all"), 4),
        (MemoryError(), 5),
        (RuntimeError("can't start new thread"), 5),
        (RuntimeError("Symlink loop from '/a/b'"), 4),
        (TargetError("x"), 6),
        (SourceError("x"), 4),
        (CheckpointError("x"), 3),
    ],
)
def test_other_errors_have_theirs(error: BaseException, expected: int) -> None:
    assert code(error) == expected and "\n" not in told(error)


def test_what_nobody_expects_stays_and_is_told_as_such() -> None:
    error = ValueError("a\nbug")
    assert named(error) is error
    assert told(error) == "unexpected ValueError: a bug (--debug shows where)"
    assert isinstance(named(BrokenPipeError()), BrokenPipeError)


def test_ctrl_c_while_a_class_is_made_is_ctrl_c() -> None:
    """Python 3.11 wraps it: seen in a dataclass that an import made."""

    class Interrupting:
        def __set_name__(self, owner: type, name: str) -> None:
            raise KeyboardInterrupt

    try:
        type("Made", (), {"field": Interrupting()})
    except BaseException as error:
        assert isinstance(named(error), KeyboardInterrupt)


def test_an_error_says_file_fault_and_hint() -> None:
    error = LlamacliError("it is empty", file=Path("a.gguf"), hint="fetch it again")
    assert str(error) == "a.gguf: it is empty; fetch it again"
    error.file = "b.gguf"
    assert str(error).startswith("b.gguf: it is empty")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("show", "~nobody-there/x"), 4),
        (("run", "x", "-m", LONG), 4),
        (("run", "x", "-m", "MODEL", "-f", LONG), 4),
        (("run", "x", "-m", "MODEL", "-f", "."), 2),
        (("convert", LONG), 4),
        (("convert", "~nobody-there/x"), 4),
        (("convert", "demo", "-o", LONG), 6),
        (("convert", "demo", "-o", "MODEL/x.gguf"), 6),
        (("convert", "demo", "--quant", "Q9_9"), 2),
        (("verify", "MODEL", "--against", LONG), 4),
        (("verify", "MODEL", "--against", "~nobody-there/x"), 4),
        (("tokens", "MODEL", "--messages", LONG), 4),
        (("devices", "--workers", LONG), 4),
        (("devices", "--workers", "."), 4),
        (("batch", LONG, "-m", "MODEL"), 4),
        (("batch", "-m", "MODEL", "-o", LONG), 6),
        (("batch", "-m", "MODEL", "-o", "MODEL/x"), 6),
        (("batch", "-m", "MODEL", "-o", "/nowhere/at/all"), 6),
        (("batch", "-m", "MODEL", "-o", ".", "--force"), 6),
        (("path", LONG), 4),
        (("rm", LONG), 4),
    ],
)
def test_names_that_the_system_refuses(
    arguments: tuple[str, ...], expected: int, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    del cli.app.registered_commands[:]
    with pytest.raises(SystemExit) as left:
        cli.main([word.replace("MODEL", str(model)) for word in arguments])
    told = capsys.readouterr().err
    assert left.value.code == expected, told
    assert len(told.splitlines()) == 1 and told.startswith("llamacli: ")


def test_what_could_not_be_written_later_is_refused_first(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="File name too long"):
        check_target(tmp_path / ("a" * 250), force=False)  # no name is left for what is begun
    assert not list(tmp_path.iterdir())
    gone = tmp_path / "link"
    gone.symlink_to(tmp_path / "nowhere" / "at all")
    with pytest.raises(OutputError, match="which isn't there"):
        check_output(gone, Path("-"), resume=False, force=True)


def test_a_full_disk_leaves_no_empty_output_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(io.FileIO):
        def write(self, _: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "out"
    monkeypatch.setattr(Path, "open", lambda path, mode: io.BufferedWriter(Full(path, mode)))
    with (
        pytest.raises(OutputError, match="out can't be written: No space left"),
        open_output(path, 0, resume=False) as write,
    ):
        write("a line\n")
    assert not path.exists()


@pytest.mark.parametrize("kind", [OSError, BrokenPipeError])
def test_what_can_not_be_told_ends_nothing_unless_nobody_reads(
    kind: type[OSError], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(io.StringIO):
        def write(self, _: str) -> int:
            raise kind(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sys, "stderr", Full())
    with pytest.raises(BrokenPipeError) if kind is BrokenPipeError else nullcontext():
        notice("half of it is done")


def test_nothing_is_measured_that_could_not_be_kept(
    store: Path, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("it is measured")

    monkeypatch.setattr("llamacli.tune.tune", fail)
    store.write_text("no folder")
    del cli.app.registered_commands[:]
    with pytest.raises(SystemExit) as left:
        cli.main(["tune", str(model)])
    assert left.value.code == 6, capsys.readouterr().err


@needs_pipes
def test_a_device_or_pipe_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(pipe := tmp_path / "pipe")
    with pytest.raises(TargetError, match="a device, or a pipe"):
        check_target(pipe, force=True)


def test_an_unreadable_folder(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As other users meet it: the tests may run as root, who reads everything."""
    stat = os.stat

    def refuse_below(path: Any, **options: Any) -> os.stat_result:
        if "secret" in os.fsdecode(path):
            raise PermissionError(errno.EACCES, "Permission denied", os.fsdecode(path))
        return stat(path, **options)

    monkeypatch.setattr(os, "stat", refuse_below)
    for arguments, expected in {
        ("convert", "/secret/checkpoint"): 4,
        ("convert", "demo", "-o", "/secret/x.gguf"): 6,
        ("verify", str(model), "--against", "/secret/checkpoint"): 4,
        ("batch", "-m", str(model), "-o", "/secret/out"): 6,
        ("run", "x", "-m", "/secret/model.gguf"): 4,
    }.items():
        del cli.app.registered_commands[:]
        with pytest.raises(SystemExit) as left:
            cli.main(arguments)
        assert left.value.code == expected, (arguments, capsys.readouterr().err)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "unreadable.gguf"])
def test_an_unreadable_file_of_a_model(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is out of reach, whatever it is a file of: code 4. One that isn't valid is code 3."""

    def refusing(opened: Callable[..., Any]) -> Callable[..., Any]:
        def opening(path: Any, *arguments: Any, **options: Any) -> Any:
            if not isinstance(path, int) and Path(path).name == name:
                raise PermissionError(errno.EACCES, "Permission denied", os.fsdecode(path))
            return opened(path, *arguments, **options)

        return opening

    file = tmp_path / "unreadable.gguf"
    file.write_bytes(b"GGUF")
    monkeypatch.setattr(os, "open", refusing(os.open))
    monkeypatch.setattr(io, "open", refusing(io.open))
    checkpoint = Path(cli.__file__).parent / "demo"
    target = str(tmp_path / "x.gguf")
    del cli.app.registered_commands[:]
    with pytest.raises(SystemExit) as left:
        if name.endswith(".gguf"):
            cli.main(["show", str(file)])
        cli.main(["convert", str(checkpoint), "-o", target])
    said = capsys.readouterr().err
    assert left.value.code == 4 and "can't be read: Permission denied" in said, said


# In the chat


@pytest.fixture
def repl(model: Path) -> Iterator[Repl]:
    with Engine(model, EngineSettings(context=256, threads=1)) as engine:
        yield Repl(
            ChatSession(engine, SamplingSettings()), str(model), lambda *_: engine, plain=True
        )


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("/file ~nobody-there/x", "no such home"),
        ("/file " + LONG, "File name too long"),
        ("/file a\0b", "no path has"),
        ("/export a\0b", "no path has"),
        ("/file .", "a folder, not a file"),
        (f"/file {sys.executable}", "; convert it\n"),
        ("/export ~nobody-there/x", "no such home"),
        ("/export " + LONG, "can't be written"),
        ("/export /nowhere/at/all.md", "can't be written"),
        ("/save " + LONG, "at most 64"),
        ("/load " + LONG, "at most 64"),
        ("/nothing", "there is no command"),
        ("/system be \udcff", "the byte 0xff, which isn't UTF-8"),
    ],
)
def test_a_chat_goes_on_after_an_error(
    line: str, said: str, repl: Repl, capsys: pytest.CaptureFixture[str]
) -> None:
    turn(repl, line)
    told = capsys.readouterr().err
    assert told.startswith("llamacli: ") and said in told and len(told.splitlines()) == 1
    assert not repl.leaving and not repl.session.messages


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), TargetError("no space"), ValueError("bug")],
)
def test_a_model_that_can_not_be_had_leaves_the_chat(
    error: Exception,
    repl: Repl,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(opening, "demo_model", fail)
    repl.open_model = lambda name, ready: cast(Engine, opening.locate(name))
    turn(repl, "/model demo")
    assert capsys.readouterr().err.startswith("llamacli: ")
    assert not repl.leaving and repl.engine.context_pointer is not None


def test_ctrl_c_while_another_model_is_loaded_keeps_the_chat(
    repl: Repl, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = create("other", HEAD, refuse)
    other.record(user("asked there"))
    other.close()
    begin_log(repl, "mine")
    repl.session.set_system("here")

    def interrupted(name: str, ready: Any) -> Engine:
        raise KeyboardInterrupt

    repl.open_model = interrupted
    turn(repl, "/load other")
    assert "interrupted" in capsys.readouterr().err
    assert repl.log is not None and repl.log.name == "mine"
    repl.session.set_system("still here")
    assert "still here" in (store / "sessions" / "mine.jsonl").read_text()
    repl.log.close()
    create_again = store / "sessions" / "other.jsonl"
    assert "asked there" in create_again.read_text()  # and nobody holds it
    from llamacli.chat.saved import resume

    again = resume("other", refuse)
    assert again.log is not None
    again.log.close()


@needs_limits
def test_a_disk_that_refuses_another_name_leaves_the_chat_under_its_own(
    repl: Repl, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import resource

    begin_log(repl, "mine")
    repl.session.conversation = Conversation((user("x" * 2000),))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        turn(repl, "/save other")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    told = capsys.readouterr().err
    assert told.startswith("llamacli: a session in ") and len(told.splitlines()) == 1
    assert repl.log is not None and repl.log.name == "mine"
    assert [path.name for path in (store / "sessions").iterdir()] == ["mine.jsonl"]
    repl.session.set_system("still here")
    assert "still here" in (store / "sessions" / "mine.jsonl").read_text()
    repl.log.close()


def test_no_save_writes_no_history(demo: Path, store: Path) -> None:
    for options, kept in ((("--no-save",), False), ((), True)):
        chat = Terminal([*PROGRAM, "chat", "-m", str(demo), "-n", "2", *options])
        try:
            chat.prompt()
            chat.line("a secret")
            chat.wait("(cut: max-tokens is reached)")
            chat.prompt()
            chat.line("/exit")
            assert chat.leave() == 0
        finally:
            chat.close()
        written = "".join(p.read_text() for p in store.rglob("*") if p.is_file())
        assert ("secret" in written) == kept


def test_a_huge_line_in_the_history_is_not_read(demo: Path, store: Path) -> None:
    store.mkdir()
    (store / "history").write_text("\n# now\n+before\n\n# now\n+" + "x" * 5_000_000 + "\n")
    chat = Terminal([*PROGRAM, "chat", "-m", str(demo), "-n", "2"])
    try:
        chat.prompt()
        chat.type("\x1b[A")
        chat.wait(">>> before")
    finally:
        chat.close()


def test_a_terminal_that_goes_ends_the_chat(demo: Path, store: Path) -> None:
    chat = Terminal([*PROGRAM, "chat", "-m", str(demo), "-n", "2", "--session", "mine"])
    try:
        chat.prompt()
        chat.line("hello")
        chat.wait("(cut: max-tokens is reached)")
        chat.prompt()
        chat.kill(signal.SIGHUP)
        assert chat.leave() == 129
    finally:
        chat.close()
    assert "hello" in (store / "sessions" / "mine.jsonl").read_text()
    assert "Traceback" not in chat.text


@pytest.mark.skipif(WINDOWS, reason="Windows has no SIGHUP")
@pytest.mark.parametrize(("name", "code"), [("SIGHUP", 129), ("SIGTERM", 143)])
def test_a_hangup_ends_an_answer(name: str, code: int, endless: Path) -> None:
    child = subprocess.Popen(
        [*PROGRAM, "run", "go on", "-m", str(endless), "-c", "100000", "--threads", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert child.stdout is not None
    child.stdout.read(10)
    child.send_signal(signal.Signals[name])
    _, told = child.communicate(timeout=PATIENCE)
    assert child.returncode == code, told


@pytest.mark.parametrize("stalled", [0.0, 0.5])
def test_a_signal_that_a_callback_loses_comes_again(
    stalled: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As numba's from LLVM: Python tells what is raised there, and goes on. The machine may stop it
    for long meanwhile: told of again just there, the signal would be lost for good."""

    @ctypes.CFUNCTYPE(None)
    def callback() -> None:
        raise KeyboardInterrupt

    def start(timer: threading.Timer) -> None:
        threading.Thread.start(timer)
        time.sleep(stalled)

    monkeypatch.setattr(threading.Timer, "start", start)
    monkeypatch.setattr(sys, "unraisablehook", cli.deliver_again)
    with pytest.raises(KeyboardInterrupt):
        callback()
        wait_until(lambda: False)  # by short sleeps: Windows ends no long one for a signal


# The rest


def test_no_home(monkeypatch: pytest.MonkeyPatch, model: Path) -> None:
    import pwd

    def unknown(*_: Any) -> Any:
        raise KeyError("no entry")

    for name in ("HOME", "LLAMACLI_HOME", "LLAMACLI_CONFIG", "XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    assert home() == config_folder() == NOWHERE
    with pytest.raises(NotFoundError, match="no such home"):
        expanded("~/x")
    del cli.app.registered_commands[:]
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    with pytest.raises(SystemExit) as left:
        cli.main(["run", "x", "-m", str(model), "-n", "1", "-c", "64", "--threads", "1"])
    assert left.value.code == 0


def test_the_models_name_is_looked_up_before_stdin_is_read() -> None:
    for command in (["run", "x"], ["batch"], ["chat"]):
        child = subprocess.Popen(
            [*PROGRAM, *command, "-m", "no-such-model"],
            stdin=subprocess.PIPE,  # which nobody closes
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            assert child.wait(PATIENCE) == 4
        finally:
            child.kill()
            for stream in (child.stdin, child.stdout, child.stderr):
                assert stream is not None
                stream.close()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("run", "-m", "MODEL", "--adapter", "nope"), 4),
        (("run", "-m", "MODEL", "--draft", "nope"), 4),
        (("run", "-m", "MODEL", "--tools", "nope.json"), 4),
        (("run", "-m", "MODEL", "--mcp", "nope.json"), 4),
        (("run", "-m", "MODEL", "--split", "3,1"), 2),
        (("run", "-m", "MODEL", "--kv-type", "q9"), 2),
        (("run", "-m", "MODEL", "--temp", "nan"), 2),
        (("run", "-m", "MODEL", "-n", "0"), 2),
        (("run", "-m", "MODEL", "--cache", "../x"), 2),
        (("batch", "-m", "MODEL", "--seed", "-1"), 2),
        (("batch", "-m", "MODEL", "--threads", "0"), 2),
        (("batch", "-m", "MODEL", "--adapter", "nope"), 4),
        (("batch", "-m", "MODEL", "--draft", "nope"), 4),
        (("chat", "-m", "MODEL", "--draft", "nope"), 4),
        (("serve", "-m", "nope", "--api-key-file", "-"), 4),
        (("quality", "MODEL", "--against", "nope", "--text", "-"), 4),
        (("verify", "MODEL", "--against", ".", "--text", "-", "--split", "3,1"), 2),
        (("quality", "MODEL", "--against", "MODEL", "--text", "-", "--device", "nope"), 2),
        (("imatrix", "MODEL", "--text", "-", "-o", "m.gguf", "--split", "3,1"), 2),
        (("imatrix", "MODEL", "--text", "-", "-o", "m.gguf", "--device", "nope"), 2),
    ],
)
def test_other_names_are_looked_up_before_stdin_is_read(
    arguments: tuple[str, ...],
    expected: int,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Unread(io.StringIO):
        @property
        def buffer(self) -> io.BytesIO:
            raise AssertionError("stdin is read")

    monkeypatch.setattr(sys, "stdin", Unread())
    monkeypatch.chdir(tmp_path)
    del cli.app.registered_commands[:]
    with pytest.raises(SystemExit) as left:
        cli.main([word.replace("MODEL", str(model)) for word in arguments])
    assert left.value.code == expected, capsys.readouterr().err


def test_what_is_raised_beside_a_long_call_is_raised() -> None:
    def fail() -> None:
        raise InterruptedError("beside")

    with pytest.raises(InterruptedError, match="beside"), in_background(fail):
        pass
    with pytest.raises(ValueError, match="inside"), in_background(fail):
        raise ValueError("inside")
    assert threading.active_count() >= 1


def test_the_program_alone_prints_its_help() -> None:
    assert llamacli().stdout == llamacli("--help").stdout
