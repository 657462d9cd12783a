"""The main commands as macOS and Windows would have them, on Linux (tests/standins/systems).

Neither system is here: what other packages and llama.cpp itself do on them isn't looked at.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.standins.checkpoint import shape_config, write_checkpoint
from tests.standins.hub import Cut, Hub, read_repo, serve
from tests.standins.systems import SYSTEMS, environment
from tests.standins.waiting import PATIENCE, wait_until
from tests.systems import needs_linux
from tests.terminal import PROGRAM, on_terminal

pytestmark = needs_linux

SHORT = ("-n", "8", "--temp", "0", "--threads", "1", "-c", "256")

Command = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture(params=SYSTEMS)
def system(request: pytest.FixtureRequest) -> dict[str, str]:
    """The environment that makes this one look as if it were another."""
    return {**os.environ, **environment(request.param)}


@pytest.fixture
def run(system: dict[str, str]) -> Command:
    def run(
        *arguments: str | Path, stdin: bytes = b"", code: int = 0
    ) -> "subprocess.CompletedProcess[bytes]":
        child = subprocess.run(
            [*PROGRAM, *(["--debug"] if code == 0 else []), *map(str, arguments)],
            input=stdin,
            capture_output=True,
            timeout=PATIENCE,
            env=system,
        )
        told = child.stderr.decode()
        assert child.returncode == code and "Traceback" not in told, told[-3000:]
        return child

    return run


def answer(system: dict[str, str], code: str) -> str:
    child = subprocess.run(
        [sys.executable, "-c", code], env=system, capture_output=True, text=True, check=True
    )
    return child.stdout.strip()


def test_our_packages_take_it_for_that_system(system: dict[str, str]) -> None:
    script = """
import os, signal, sys, types
ours = types.ModuleType("convert.looking")
exec("import os, signal; lacks = lambda m, n: not hasattr(m, n)", ours.__dict__)
from llamacli import system
print(system.WINDOWS, system.MACOS, ours.lacks(os, "posix_fadvise"), ours.lacks(os, "pread"),
      ours.lacks(signal, "SIGALRM"), hasattr(os, "posix_fadvise"), sys.platform)
"""
    told = {
        "windows": "True False True True True True linux",
        "macos": "False True True False False True linux",
    }
    assert answer(system, script) == told[system["LLAMACLI_SYSTEM"]]


def test_a_time_that_is_set_anew_is_forgotten(system: dict[str, str]) -> None:
    """Else a write would be given up for the time that the one before it had."""
    script = """
import threading
from llamacli.system import alarm
with alarm(print) as start:
    start(600)
    start(600)
    waiting = [one for one in threading.enumerate() if isinstance(one, threading.Timer)]
    print(len([one for one in waiting if not one.finished.is_set()]))
"""
    timers = {"windows": "1", "macos": "0"}  # there the system has the one
    assert answer(system, script) == timers[system["LLAMACLI_SYSTEM"]]


def test_the_demo_is_made_and_answers(run: Command, store: Path) -> None:
    first = run("run", "-m", "demo", *SHORT, "What is GGUF?")
    assert b"GGUF" in first.stdout and [path.name for path in store.glob("*.gguf")]
    piped = run("run", "-m", "demo", *SHORT, stdin=b"What is GGUF?\r\n")
    assert piped.stdout == first.stdout


def test_a_checkpoint_is_converted_shown_and_verified(run: Command, tmp_path: Path) -> None:
    folder, target = tmp_path / "checkpoint", tmp_path / "out.gguf"
    write_checkpoint(folder, shape_config("tiny"), shards=2)
    assert run("convert", folder, "-o", target, "--q4").stdout.decode().strip() == str(target)
    before = target.read_bytes()
    run("convert", folder, "-o", target, "--q4", code=6)
    run("convert", folder, "-o", target, "--q4", "--force")
    assert target.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {"out.gguf"}
    assert b"quantization" in run("show", target).stdout
    assert json.loads(run("verify", target, "--against", folder, "--json").stdout)["faithful"]


def test_a_terminal_that_knows_few_characters(tmp_path: Path) -> None:
    """Tables, boxes and arrows in Windows' old code page, which has none of them."""
    folder, target = tmp_path / "checkpoint", tmp_path / "out.gguf"
    write_checkpoint(folder, shape_config("tiny"))
    with_few = environment("windows")
    shown, child = on_terminal([*PROGRAM, "convert", folder, "-o", target], **with_few)
    assert child.returncode == 0 and b"parameters" in shown and b" ? " in shown, shown
    shown, child = on_terminal([*PROGRAM, "show", target], **with_few)
    assert child.returncode == 0 and b"+-" in shown and b"Traceback" not in shown, shown


def test_a_pipe_that_nobody_reads_ends_it_quietly(system: dict[str, str]) -> None:
    """Windows calls it an invalid argument."""
    reading, writing = os.pipe()
    os.close(reading)
    child = subprocess.run(
        [*PROGRAM, "list", "--known"], stdout=writing, stderr=subprocess.PIPE, env=system
    )
    os.close(writing)
    assert (child.returncode, child.stderr) == (141, b"")


def test_parts_that_were_left_are_cleared(run: Command, tmp_path: Path) -> None:
    folder, target = tmp_path / "checkpoint", tmp_path / "out.gguf"
    write_checkpoint(folder, shape_config("tiny"))
    (tmp_path / ".out.gguf.00000000.part").write_text("left by a killed conversion")
    run("convert", folder, "-o", target, "--q8")
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {"out.gguf"}


def test_a_part_that_is_about_to_be_renamed_is_not_taken_for_abandoned(tmp_path: Path) -> None:
    """Windows renames no open file, and a closed one has no lock."""
    script = f"""
import threading
from pathlib import Path
from convert import system, target
out = Path({str(tmp_path / "out.gguf")!r})
part = out.with_name(".out.gguf.00000000.part")
part.write_text("whole", encoding="utf-8")
lock, refused = system.lock, threading.Event()
def noted(descriptor):
    try:
        lock(descriptor)
    except BlockingIOError:
        refused.set()
        raise
system.lock = noted
other = threading.Thread(target=target._clear_abandoned, args=(out,))
with system.alone(out):
    other.start()
    while not refused.wait(0.01) and other.is_alive():
        pass
    print(part.exists())
other.join()
print(part.exists())
"""
    told = answer({**os.environ, **environment("windows")}, script)
    assert told.splitlines() == ["True", "False"]


@pytest.mark.parametrize("case", ["error", "link"])
def test_a_conversion_in_pieces_leaves_nothing_and_follows_nothing(
    case: str, system: dict[str, str], tmp_path: Path
) -> None:
    """Where the system removes no open file, and opens links as if they were files."""
    script = f"""
from pathlib import Path
from convert.errors import TargetError
from convert.journal import partial_path, resumable_file
target = Path({str(tmp_path / "out.gguf")!r})
if {case == "link"}:
    partial_path(target).symlink_to(target.with_name("elsewhere"))
try:
    with resumable_file(target, False, 1) as (part, journal):
        journal.write(b"some", 0)
        raise ValueError("said")
except (ValueError, TargetError) as error:
    print(type(error).__name__)
print(*sorted(path.name for path in target.parent.iterdir() if path.is_file()))
"""
    told = answer(system, script).splitlines()
    assert told == {"error": ["ValueError"], "link": ["TargetError"]}[case]


def test_batch_answers_lines_that_end_as_windows_ends_them(run: Command, tmp_path: Path) -> None:
    source, out = tmp_path / "in.txt", tmp_path / "out.jsonl"
    source.write_bytes("Was ist GGUF?\r\nÜber llamacli\r\n".encode())
    run("batch", source, "-m", "demo", *SHORT, "-o", out)
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").split("\n")[:-1]]
    assert len(lines) == 2 and all(line["text"] for line in lines)
    run("batch", source, "-m", "demo", *SHORT, "-o", out, "--resume")
    assert len(out.read_bytes().split(b"\n")) == 3


def test_a_plain_chat(run: Command) -> None:
    told = run("chat", "-m", "demo", *SHORT, stdin="Was ist GGUF? ü".encode())
    assert told.stdout.strip()


def test_a_session_is_kept_locked_and_gone_on_with(system: dict[str, str]) -> None:
    script = """
from llamacli.chat.conversation import assistant, user
from llamacli.chat.file import SessionHead
from llamacli.chat.saved import create, resume
from llamacli.errors import UsageError
print_it = print
log = create("one", SessionHead("demo", "Q8_0"), print_it)
log.record(user("ü")); log.record(assistant("ja"))
try:
    again = resume("one", print_it)
    print(again.log)
except UsageError:
    print("locked")
log.close()
empty = create("two", SessionHead("demo", "Q8_0"), print_it)
empty.close()
session = resume("one", print_it)
print(len(session.conversation.messages), session.notices)
session.log.close()
"""
    assert answer(system, script).splitlines() == ["locked", "2 ()"]


def test_models_toml_of_an_editor_of_windows(
    run: Command, tmp_path: Path, system: dict[str, str]
) -> None:
    (tmp_path / "config").mkdir()
    text = "# für mich\r\n[defaults]\r\nmax_tokens = 3\r\n"
    (tmp_path / "config" / "models.toml").write_bytes(text.encode())
    told = json.loads(run("run", "-m", "demo", "--temp", "0", "--json", "What is GGUF?").stdout)
    assert told["answer_tokens"] == 3


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    write_checkpoint(tmp_path / "source", shape_config("tiny", num_hidden_layers=8))
    with serve() as running:
        running.repos["someone/model"] = read_repo(tmp_path / "source")
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
        yield running


@pytest.mark.parametrize("other", SYSTEMS)
def test_a_killed_conversion_is_gone_on_with(
    other: str, hub: Hub, store: Path, tmp_path: Path
) -> None:
    system = {**os.environ, **environment(other)}
    gate, half = threading.Event(), (tmp_path / "source" / "model.safetensors").stat().st_size // 2

    def cut(number: int, asked: str) -> Cut | None:
        start = int(asked.removeprefix("bytes=").partition("-")[0] or 0)
        return Cut(after=0, gate=gate) if start > half else None

    hub.cuts = cut
    command = [*PROGRAM, "convert", "someone/model", "--q8"]
    with subprocess.Popen(command, env=system, stderr=subprocess.PIPE, text=True) as child:

        def begun() -> bool:
            journals = [*store.glob(".*.journal")]
            return bool(journals) and journals[0].read_text(encoding="utf-8").count("\n") > 3

        wait_until(begun, child)
        child.kill()
    gate.set()
    hub.cuts = lambda number, asked: None
    told = subprocess.run(command, env=system, capture_output=True, text=True, timeout=PATIENCE)
    assert told.returncode == 0 and "going on" in told.stderr, told.stderr
    assert [path.suffix for path in store.iterdir() if path.is_file()] == [".gguf"]
