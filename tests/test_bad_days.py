"""Kills, interrupts, full disks, vanishing files, odd clocks and missing homes: nothing is lost."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from textwrap import dedent

import pytest

from convert import CheckpointError, convert
from convert.pipeline import Progress
from tests import moments
from tests.standins.tiny import write_model
from tests.standins.waiting import PATIENCE
from tests.systems import (
    needs_kills,
    needs_linux,
    needs_owners,
    needs_pipes,
    needs_replacing,
    needs_signals,
)

Make = Callable[..., Path]

PROGRAM = [sys.executable, "-m", "llamacli"]
PROMPT = "say something about the moments of a bad day, and how they end, in a few words please"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "tiny.gguf")


def llamacli(
    *arguments: str | Path, prefix: tuple[str, ...] = (), **env: str | None
) -> subprocess.CompletedProcess[str]:
    """Run the program; variables that are None are unset."""
    changed = {**os.environ, **env}
    return subprocess.run(
        [*prefix, *PROGRAM, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env={name: value for name, value in changed.items() if value is not None},
    )


def told(result: subprocess.CompletedProcess[str], code: int) -> str:
    """The one line of an error."""
    assert result.returncode == code and result.stdout == "", result.stderr
    assert result.stderr.count("\n") == 1 and result.stderr.startswith("llamacli: ")
    return result.stderr


# Kills and interrupts


@needs_kills
def test_killed_at_a_hundred_moments(checkpoint: Make, tmp_path: Path) -> None:
    """The target is what it was or whole, and the next conversion clears what was left.

    Half of the moments are anywhere, half while the file is written.
    """
    target = tmp_path / "out" / "model.gguf"
    target.parent.mkdir()
    command = ["convert", checkpoint(), "-o", target, "--force", "--q8", "--threads", "1"]
    first = moments.run(tmp_path / "child", command, number=signal.SIGKILL)
    assert first.code == 0 and first.calls is not None, first.said
    whole = target.read_bytes()
    random, left = Random(1), 0
    writing = first.entered["whole_file"], first.entered["_print_report"]
    for moment in (random.randrange(*(writing, (1, first.calls))[i % 2]) for i in range(100)):
        target.write_bytes(b"what was there")
        ended = moments.run(tmp_path / "child", command, number=signal.SIGKILL, moment=moment)
        assert ended.calls is not None or ended.code == -signal.SIGKILL, ended
        assert target.read_bytes() in (b"what was there", whole)
        parts = [path for path in target.parent.iterdir() if path != target]
        assert len(parts) <= 1 and all(path.name.startswith(".model.gguf.") for path in parts)
        left += len(parts)
    assert left > 10
    assert moments.run(tmp_path / "child", command).code == 0
    assert target.read_bytes() == whole
    assert [*target.parent.iterdir()] == [target]


@needs_signals
@pytest.mark.parametrize("verb", ["convert", "run", "batch", "show"])
def test_interrupted_at_any_moment(
    verb: str, checkpoint: Make, model: Path, tmp_path: Path
) -> None:
    """Exit code 130, not a word, nothing half-written: at random moments, and at the last ones."""
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "lines").write_text("one\ntwo\n")
    answer = ["-m", model, "-n", "4", "-c", "128", "--threads", "1"]
    commands: dict[str, list[str | Path]] = {
        "convert": ["convert", checkpoint(), "-o", out / "x.gguf", "--q8", "--threads", "1"],
        "run": ["run", PROMPT, *answer, "--cache", "auto", "--quiet"],
        "batch": ["batch", tmp_path / "lines", *answer, "--quiet"],
        "show": ["show", model],
    }
    whole = moments.run(tmp_path / "child", commands[verb])
    assert whole.code == 0 and whole.calls is not None, whole.said
    random, met = Random(2), 0
    last = range(whole.calls - 40, whole.calls, 8)
    for moment in (*(random.randrange(1, whole.calls) for _ in range(25)), *last):
        for path in out.iterdir():
            path.unlink()
        ended = moments.run(tmp_path / "child", commands[verb], moment=moment)
        if ended.calls is not None and ended.code == 0:
            continue  # a run makes a few calls more or less than another
        met += 1
        assert ended.code == 130, (moment, ended)
        assert "Traceback" not in ended.said and "Exception" not in ended.said, (moment, ended)
        assert {path.name for path in out.iterdir()} <= {"x.gguf"}, moment
        cache = tmp_path / "store" / "cache"
        assert not cache.exists() or all(path.suffix == ".kv" for path in cache.iterdir())
    assert met > 10


def test_interrupted_where_a_pool_of_threads_holds_a_lock(checkpoint: Make, tmp_path: Path) -> None:
    """Its locks are Python's, which a handler that raises on their way out leaves held."""
    code = """
        import signal, sys, threading
        from convert import convert
        leave = threading.Condition.__exit__

        def interrupted(condition, *error):
            idle = sys._getframe(1).f_code.co_name == "acquire"  # the semaphore of idle threads
            if idle and threading.active_count() > 1:
                threading.Condition.__exit__ = leave
                signal.raise_signal(signal.SIGINT)
            return leave(condition, *error)

        threading.Condition.__exit__ = interrupted
        try:
            convert(sys.argv[1], sys.argv[2], "Q8_0", threads=1)
        except KeyboardInterrupt:
            print("ended")
    """
    command = [sys.executable, "-c", dedent(code), checkpoint(), tmp_path / "out.gguf"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert ended.stdout == "ended\n", ended.stderr
    assert not (tmp_path / "out.gguf").exists()


# Disks and files


@needs_linux
@pytest.mark.parametrize("percent", [10, 50, 90])
def test_a_disk_that_is_too_small(checkpoint: Make, tmp_path: Path, percent: int) -> None:
    """A file system of its own, in a mount namespace that ends with the process."""
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("this user may mount nothing")
    folder, disk = checkpoint(), tmp_path / "disk"
    disk.mkdir()
    convert(folder, tmp_path / "whole.gguf", "Q8_0")
    size = (tmp_path / "whole.gguf").stat().st_size * percent // 100
    mount = f'mount -t tmpfs -o size={size} none "$0" && "$@"; code=$?; ls -A "$0"; exit $code'
    result = llamacli(
        *("convert", folder, "-o", disk / "out.gguf", "--q8"),
        prefix=("unshare", "-m", "sh", "-c", mount, str(disk)),
    )
    told(result, 6)


def test_source_removed_while_it_is_read(checkpoint: Make, tmp_path: Path) -> None:
    """What is open stays readable where the system has it so; the file is whole or not there."""
    folder = checkpoint(num_hidden_layers=8)
    convert(folder, tmp_path / "whole.gguf", "Q8_0")

    def remove(progress: Progress) -> None:
        shutil.rmtree(folder, ignore_errors=True)

    convert(folder, tmp_path / "out.gguf", "Q8_0", threads=1, progress=remove)
    assert (tmp_path / "out.gguf").read_bytes() == (tmp_path / "whole.gguf").read_bytes()


def test_source_changed_while_it_is_read(checkpoint: Make, tmp_path: Path) -> None:
    folder = checkpoint(num_hidden_layers=24)
    weights = folder / "model.safetensors"

    def change(progress: Progress) -> None:
        with weights.open("r+b") as file:
            file.seek(-2, os.SEEK_END)
            file.write(b"\0\0")
        os.utime(weights, (1, 1))

    with pytest.raises(CheckpointError, match="changed"):
        convert(folder, tmp_path / "out.gguf", "Q8_0", threads=1, progress=change)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


@needs_replacing
def test_source_replaced_while_it_is_read(checkpoint: Make, tmp_path: Path) -> None:
    """A new file under the old name, as editors and downloads write it: the old one is read on."""
    folder = checkpoint(num_hidden_layers=24)
    convert(folder, tmp_path / "whole.gguf", "Q8_0")

    def replace(progress: Progress) -> None:
        (folder / "new").write_bytes(b"something else")
        os.replace(folder / "new", folder / "model.safetensors")

    convert(folder, tmp_path / "out.gguf", "Q8_0", threads=1, progress=replace)
    assert (tmp_path / "out.gguf").read_bytes() == (tmp_path / "whole.gguf").read_bytes()


def without_privilege() -> tuple[str, ...]:
    """What runs a program such that permissions bind root, too."""
    if os.geteuid():
        return ()
    if shutil.which("setpriv") is None:
        pytest.skip("permissions don't bind root, and there is no setpriv")
    dropped = "-dac_override,-dac_read_search"
    return ("setpriv", f"--bounding-set={dropped}", f"--inh-caps={dropped}")


@needs_owners
def test_a_store_that_cannot_be_written(
    checkpoint: Make, model: Path, store: Path, tmp_path: Path
) -> None:
    """Models in it are used; what would be written is refused with code 6, or told and let be."""
    store.mkdir()
    shutil.copy(model, store / "tiny-F32.gguf")
    store.chmod(0o555)
    prefix = without_privilege()
    try:
        line = told(llamacli("convert", checkpoint(), "--q8", prefix=prefix), 6)
        assert str(store) in line
        told(llamacli("run", "hi", "-m", "demo", "--quiet", prefix=prefix), 6)
        answer = ["-m", "tiny", "-n", "3", "--seed", "1", "--threads", "1", "--cache", "auto"]
        answered = llamacli("run", PROMPT, *answer, prefix=prefix)
        assert answered.returncode == 0 and answered.stdout.strip()
        assert "can't be written" in answered.stderr
        assert [path.name for path in store.iterdir()] == ["tiny-F32.gguf"]
    finally:
        store.chmod(0o755)


def test_a_file_in_place_of_the_store(checkpoint: Make, model: Path, store: Path) -> None:
    store.write_text("in the way")
    assert "LLAMACLI_HOME" in told(llamacli("convert", checkpoint(), "--q8"), 6)
    told(llamacli("run", "hi", "-m", "demo"), 6)
    assert llamacli("run", "hi", "-m", model, "-n", "2").returncode == 0
    assert store.read_text() == "in the way"


@needs_pipes
def test_no_home(model: Path, tmp_path: Path) -> None:
    """A home that isn't there and can't be made: only what needs a place of its own fails."""
    nowhere: dict[str, str | None] = dict.fromkeys(
        ("LLAMACLI_HOME", "LLAMACLI_CONFIG", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME")
    )
    nowhere["HOME"] = "/dev/null"
    assert llamacli("--help", **nowhere).returncode == 0
    assert llamacli("show", model, **nowhere).returncode == 0
    assert llamacli("list", **nowhere).returncode == 0
    assert llamacli("run", "hi", "-m", model, "-n", "2", **nowhere).returncode == 0
    assert "/dev/null" in told(llamacli("run", "hi", "-m", "demo", "--quiet", **nowhere), 6)
    told(llamacli("run", "hi", "-m", "nothing", **nowhere), 4)


# Clocks and memory


def test_files_from_the_future(checkpoint: Make, store: Path, tmp_path: Path) -> None:
    """A clock that was set back: files newer than now are used, and cleared, like any others."""
    future = 4_000_000_000
    source = write_model(tmp_path / "tiny.gguf")
    folder, target = checkpoint(), tmp_path / "out.gguf"
    abandoned = tmp_path / ".out.gguf.00000000.part"
    abandoned.write_text("left by a killed conversion")
    for path in (source, folder / "model.safetensors", abandoned):
        os.utime(path, (future, future))
    convert(folder, target, "Q8_0")
    assert not abandoned.exists()
    answer = ["-m", source, "-n", "3", "--temp", "0", "--threads", "1", "--cache", "x", "--json"]
    first = llamacli("run", PROMPT, *answer)
    os.utime(store / "cache" / "name-x.kv", (future, future))
    second = llamacli("run", PROMPT, *answer)
    assert first.returncode == second.returncode == 0
    assert '"cached_tokens": 0' in first.stdout and '"cached_tokens": 0' not in second.stdout


@needs_linux
def test_memory_that_runs_out_while_loading(tmp_path: Path) -> None:
    """Answers, or code 5 in one line; never a crash, whatever the limit."""
    model = write_model(tmp_path / "tiny.gguf")
    command = ["run", "hi", "-m", model, "-n", "2", "-c", "1024", "--threads", "1", "--quiet"]
    codes = []
    for mebibytes in (*range(1, 16), *range(16, 64, 6), 100, 200, 400):
        ended = moments.run(tmp_path / "child", command, memory=mebibytes << 20)
        assert ended.code in (0, 5), (mebibytes, ended)
        assert ended.code == 0 or ended.said.count("\n") == 1, (mebibytes, ended)
        codes.append(ended.code)
    assert 0 in codes and 5 in codes
