"""`llamacli chat` where stdin or stdout is no terminal: it answers as run does."""

import signal
import subprocess
from pathlib import Path

import pytest

from tests.standins.program import PROGRAM, run_program
from tests.standins.tiny import write_model
from tests.standins.waiting import PATIENCE, ROOM
from tests.systems import needs_signals
from tests.terminal import Terminal


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "tiny.gguf")


def chat(model: Path, *options: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [*PROGRAM, "chat", "-m", str(model), "--threads", "1", "--temp", "0", *options]
    return run_program(command, input=stdin)


def test_a_pipe_is_answered_as_run_answers_it(model: Path, store: Path) -> None:
    answered = chat(model, "-n", "9", "--system", "Be kind.", stdin=b"some text")
    command = [*PROGRAM, "run", "-m", str(model), "--threads", "1", "--temp", "0", "-n", "9"]
    by_run = run_program([*command, "--system", "Be kind."], input=b"some text")
    assert answered.returncode == 0 and answered.stderr == b""
    assert answered.stdout == by_run.stdout and answered.stdout.endswith(b"\n")
    assert not (store / "sessions").exists()


@pytest.mark.parametrize(
    ("options", "stdin", "words"),
    [
        ([], b" \n", b"a question on stdin"),
        (["--resume"], b"hi", b"needs a terminal"),
        (["some-name"], b"hi", b"--resume some-name"),
        (["--session", "a", "--no-save"], b"hi", b"--session"),
        (["--date", "tomorrow"], b"hi", b"tomorrow"),
    ],
)
def test_wrong_use_is_one_line(model: Path, options: list[str], stdin: bytes, words: bytes) -> None:
    told = chat(model, *options, stdin=stdin)
    assert told.returncode == 2 and told.stdout == b""
    assert words in told.stderr and len(told.stderr.splitlines()) == 1


def test_a_terminal_as_stdin_alone_is_no_place_to_chat(model: Path) -> None:
    terminal = Terminal(["bash", "-c", f"{' '.join(PROGRAM)} chat -m {model} | cat"])
    terminal.wait("chat needs a terminal as stdout, too")
    terminal.close()


def test_only_stdout_piped_is_still_a_pipe(model: Path) -> None:
    terminal = Terminal(["bash", "-c", f"{' '.join(PROGRAM)} chat -m {model} </dev/null | cat"])
    terminal.wait("or a question on stdin")
    terminal.close()


@needs_signals
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_keeps_what_was_said(endless: Path, number: signal.Signals, code: int) -> None:
    child = subprocess.Popen(
        [*PROGRAM, "chat", "-m", str(endless), "-c", "100000", "--threads", "1", "--temp", "0"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pipesize=ROOM,
    )
    assert child.stdin is not None and child.stdout is not None
    child.stdin.write(b"go on")
    child.stdin.close()
    child.stdin = None
    start = child.stdout.read(100)
    child.send_signal(number)
    rest, told = child.communicate(timeout=PATIENCE)
    assert child.returncode == code and told == b""
    assert (start + rest).endswith(b"\n") and not (start + rest).endswith(b"\n\n")
