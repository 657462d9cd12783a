"""Nothing half-written is ever left under a final name, whatever happens to a conversion."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from convert import TargetError, convert, system, whole_file
from convert.pipeline import Progress
from convert.target import allocate
from tests.systems import needs_limits, needs_peak, needs_space_beforehand

Make = Callable[..., Path]

CONVERT = "import sys; from convert import convert; convert(sys.argv[1], sys.argv[2], 'Q4_K_M')"
# Says so and waits, for ever, where the progress is told after so many times.
CONVERT_AND_HANG = """
import sys
from convert import convert
left = iter(range(int(sys.argv[3])))
def hang(progress):
    if next(left, None) is None:
        print(progress, flush=True)
        sys.stdin.read()
convert(sys.argv[1], sys.argv[2], "Q4_K_M", progress=hang)
"""


def files_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_file()}


def test_existing_target_is_kept(checkpoint: Make, tmp_path: Path) -> None:
    target = tmp_path / "out.gguf"
    target.write_text("mine")
    with pytest.raises(TargetError, match="--force"):
        convert(checkpoint(), target, "Q8_0")
    assert target.read_text() == "mine"
    convert(tmp_path / "checkpoint", target, "Q8_0", force=True)
    assert target.read_bytes()[:4] == b"GGUF"


def test_a_link_to_nothing_is_told_before_the_work(checkpoint: Make, tmp_path: Path) -> None:
    """The result could not get its name in the end; hours would be lost."""
    target = tmp_path / "out.gguf"
    target.symlink_to(tmp_path / "away.gguf")

    def never(progress: Progress) -> None:
        raise AssertionError("weights were read")

    with pytest.raises(TargetError, match=r"link to .*away\.gguf, which isn't there"):
        convert(checkpoint(), target, "Q8_0", progress=never)
    assert target.is_symlink() and files_in(tmp_path) == set()
    convert(tmp_path / "checkpoint", target, "Q8_0", force=True)
    assert not target.is_symlink() and files_in(tmp_path) == {"out.gguf"}


@needs_space_beforehand
@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "2.0 GB can't be had.*free some space"),
        (errno.EIO, "can't be written: Input/output error$"),
        (errno.EFBIG, "can't be written: File too large$"),
        (errno.EOPNOTSUPP, ""),
    ],
)
def test_what_the_system_refuses_is_told_as_it_is(
    number: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, offset: int, size: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with (tmp_path / "part").open("wb") as file:
        if not words:
            allocate(file.fileno(), tmp_path / "out.gguf", 2_000_000_000)
            return
        with pytest.raises(TargetError, match=words) as error:
            allocate(file.fileno(), tmp_path / "out.gguf", 2_000_000_000)
    assert error.value.file == str(tmp_path / "out.gguf")


def test_error_on_the_way_leaves_nothing(checkpoint: Make, tmp_path: Path) -> None:
    def interrupt(progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(checkpoint(), tmp_path / "out.gguf", "Q4_K_M", progress=interrupt)
    assert files_in(tmp_path) == set()


def test_target_taken_meanwhile_is_kept(checkpoint: Make, tmp_path: Path) -> None:
    target = tmp_path / "out.gguf"
    with pytest.raises(TargetError, match="meanwhile"):
        convert(
            checkpoint(), target, "Q4_K_M", progress=lambda p: target.write_text("other") and None
        )
    assert target.read_text() == "other"
    assert files_in(tmp_path) == {"out.gguf"}


def test_a_file_gets_its_name_where_nothing_can_be_linked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or, on Windows, renamed at once: who gives a name there would wait for itself, if it looked
    for what others have abandoned then."""
    inside: list[Path] = []

    @contextmanager
    def alone(target: Path) -> Iterator[None]:
        assert not inside
        inside.append(target)
        try:
            yield
        finally:
            inside.clear()

    def refuse(path: Path, new: Path) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(system, "alone", alone)
    monkeypatch.setattr(system, "name_new", refuse)
    target = tmp_path / "out.gguf"
    with whole_file(target, force=False) as part:
        part.write_bytes(b"whole")
    assert target.read_bytes() == b"whole" and files_in(tmp_path) == {"out.gguf"}
    with (
        pytest.raises(TargetError, match="it exists already"),
        whole_file(target, force=False) as part,
    ):
        part.write_bytes(b"another")
    assert target.read_bytes() == b"whole" and files_in(tmp_path) == {"out.gguf"}


def test_too_little_space_is_told_before_the_work(
    checkpoint: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(TargetError, match="free"):
        convert(checkpoint(), tmp_path / "out.gguf", "Q4_K_M")
    assert files_in(tmp_path) == set()


@needs_limits
@pytest.mark.parametrize("tenth", range(1, 10))
def test_limit_at_every_tenth_of_the_output(checkpoint: Make, tmp_path: Path, tenth: int) -> None:
    """A file-size limit stands for a disk that fills up; the child alone lives under it."""
    folder, target = checkpoint(), tmp_path / "out.gguf"
    convert(folder, target, "Q4_K_M")
    limit = target.stat().st_size * tenth // 10
    target.unlink()

    def under_limit() -> None:
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    child = subprocess.run(
        [sys.executable, "-c", CONVERT, folder, target],
        preexec_fn=under_limit,
        capture_output=True,
        text=True,
    )
    assert child.returncode == 1 and "TargetError" in child.stderr
    assert files_in(tmp_path) == set()


def test_killed_conversion_leaves_no_target_and_the_next_clears_up(
    checkpoint: Make, tmp_path: Path
) -> None:
    folder, target = checkpoint(num_hidden_layers=24), tmp_path / "out.gguf"
    convert(folder, target, "Q4_K_M")
    whole = target.read_bytes()
    target.unlink()
    for calls in range(0, 40, 5):
        command = [sys.executable, "-c", CONVERT_AND_HANG, folder, target, str(calls)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE) as child:
            assert child.stdout is not None and child.stdout.readline()
            child.kill()
        assert list(tmp_path.glob(".out.gguf.*.part")) and not target.exists()
    convert(folder, target, "Q4_K_M")
    assert target.read_bytes() == whole
    assert files_in(tmp_path) == {"out.gguf"}


def test_part_of_a_living_conversion_is_left_alone(checkpoint: Make, tmp_path: Path) -> None:
    """Two conversions to one target: one gets the name, the other an error, neither a mixture."""
    folder, target = checkpoint(num_hidden_layers=24), tmp_path / "out.gguf"
    children = [
        subprocess.Popen([sys.executable, "-c", CONVERT, folder, target], stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    codes = sorted((child.communicate(), child.returncode)[1] for child in children)
    assert codes == [0, 1]
    assert files_in(tmp_path) == {"out.gguf"}
    first = target.read_bytes()
    convert(folder, target, "Q4_K_M", force=True)
    assert target.read_bytes() == first


def test_source_cut_while_it_is_read(checkpoint: Make, tmp_path: Path) -> None:
    from convert import CheckpointError

    folder = checkpoint()

    def cut(progress: Progress) -> None:
        os.truncate(folder / "model.safetensors", 5000)

    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        convert(folder, tmp_path / "out.gguf", "Q4_K_M", threads=1, progress=cut)
    assert files_in(tmp_path) == set()


@needs_peak
def test_memory_stays_bounded(tmp_path: Path) -> None:
    """Peak resident memory of a conversion of 1.2 GB of weights, in a process of its own."""
    from tests.standins.checkpoint import shape_config, write_checkpoint

    config = shape_config("8b", num_hidden_layers=1, vocab_size=50000)
    write_checkpoint(tmp_path / "wide", config, sparse=True)
    script = (
        "from llamacli.tune.measure import peak_resident; from convert import convert;"
        f"convert({str(tmp_path / 'wide')!r}, {str(tmp_path / 'out.gguf')!r}, 'Q8_0');"
        "print(peak_resident())"
    )
    child = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert int(child.stdout) < 600 << 20
