"""Partial files and their journals: what is kept, what is thrown away, who may write."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from convert import (
    CheckpointError,
    Progress,
    SourceError,
    TargetError,
    check_target,
    pieces,
    system,
)
from convert.checkpoint import open_checkpoint
from convert.journal import Journal, partial_path, resumable_file, space_taken
from convert.pipeline import write_gguf
from convert.quantization import named_quantization

MADE_OF = {"origin": "a/b@1", "files": {"x": "y"}}


def write(
    target: Path, pieces: dict[int, bytes], error: BaseException | None = None, **options: Any
) -> Journal:
    """One call that writes some pieces, and fails where an error is given."""
    made_of = options.pop("made_of", MADE_OF)
    with resumable_file(target, options.pop("force", False), made_of) as (_, journal):
        for offset, data in pieces.items():
            journal.write(data, offset)
        if error is not None:
            raise error
    return journal


def journal_of(target: Path, made_of: Any = MADE_OF) -> tuple[set[int], bool]:
    """What the next call finds of two pieces, and whether it began anew; it ends as it began."""
    with pytest.raises(KeyboardInterrupt), resumable_file(target, False, made_of) as (_, journal):
        there = journal.offsets_kept([(0, 5), (5, 6)], 2), journal.renewed
        raise KeyboardInterrupt
    return there


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "out.gguf"


def cut_short(target: Path) -> Path:
    """Two pieces were written when the source failed; the journal's path."""
    with pytest.raises(SourceError):
        write(target, {0: b"first", 5: b"second"}, SourceError("away"))
    return target.with_name(f".{target.name}.journal")


def names(target: Path) -> set[str]:
    return {path.name for path in target.parent.iterdir()}


def test_a_whole_file_gets_its_name_and_leaves_nothing_else(target: Path) -> None:
    write(target, {0: b"first", 5: b"second"})
    assert target.read_bytes() == b"firstsecond"
    assert names(target) == {"out.gguf"}


def test_pieces_stay_where_the_source_fails(target: Path) -> None:
    cut_short(target)
    assert names(target) == {".out.gguf.partial", ".out.gguf.journal"}
    assert space_taken(target) > 0
    assert journal_of(target) == ({0, 5}, False)
    write(target, {})
    assert target.read_bytes() == b"firstsecond"


@pytest.mark.parametrize("error", [CheckpointError("damaged"), OSError(28, "full"), ValueError()])
def test_nothing_stays_where_the_same_would_fail_again(target: Path, error: Exception) -> None:
    with pytest.raises((CheckpointError, TargetError, ValueError)):
        write(target, {0: b"first"}, error)
    assert names(target) == set()


def test_nothing_stays_where_nothing_was_written(target: Path) -> None:
    with pytest.raises(SourceError):
        write(target, {}, SourceError("away"))
    assert names(target) == set()


def test_pieces_of_another_source_are_thrown_away(target: Path) -> None:
    cut_short(target)
    assert journal_of(target, {**MADE_OF, "origin": "a/b@2"}) == (set(), True)


def test_a_piece_whose_bytes_changed_is_not_there(target: Path) -> None:
    cut_short(target)
    with partial_path(target).open("r+b") as file:
        file.write(b"F")
    assert journal_of(target) == ({5}, False)


def test_a_partial_file_that_was_cut_is_noticed(target: Path) -> None:
    cut_short(target)
    os.truncate(partial_path(target), 8)
    assert journal_of(target) == ({0}, False)


@pytest.mark.parametrize(
    "line", ['[12, 3, "to', "[1]\n", "{}\n", "null\n", '["a", 1, "b"]\n', "\0\n", "[" * 9999 + "\n"]
)
def test_the_journal_counts_up_to_a_line_that_is_not_whole(target: Path, line: str) -> None:
    journal = cut_short(target)
    with journal.open("a") as file:
        file.write(line + '[5, 6, "no hash"]\n')
    assert journal_of(target) == ({0, 5}, False)
    assert journal_of(target) == ({0, 5}, False)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"null\n", b"{}\n[0, 5]\n"])
def test_a_journal_that_is_none_begins_anew(target: Path, content: bytes) -> None:
    cut_short(target).write_bytes(content)
    assert journal_of(target)[0] == set()


def test_another_process_is_not_disturbed(target: Path) -> None:
    with pytest.raises(SourceError), resumable_file(target, False, MADE_OF) as (_, journal):
        journal.write(b"first", 0)
        with pytest.raises(TargetError, match="another process"):
            write(target, {0: b"other"})
        raise SourceError("away")
    assert journal_of(target)[0] == {0}


@pytest.mark.parametrize("name", [".out.gguf.partial", ".out.gguf.journal"])
@pytest.mark.parametrize("kind", ["link", "dangling link", "second name", "pipe", "folder"])
def test_what_lies_under_a_name_that_can_be_guessed_is_not_written(
    target: Path, name: str, kind: str
) -> None:
    """Another user of the folder may have put it there, to have some file of ours written."""
    mine, planted = target.parent / "mine", target.parent / name
    mine.write_text("mine")
    match kind:
        case "link":
            planted.symlink_to(mine)
        case "dangling link":
            planted.symlink_to(target.parent / "new")
        case "second name":
            planted.hardlink_to(mine)
        case "pipe":
            os.mkfifo(planted)
        case "folder":
            planted.mkdir()
    with pytest.raises(TargetError, match="isn't one; remove it"):
        write(target, {0: b"first"})
    assert mine.read_text() == "mine" and not (target.parent / "new").exists()
    assert space_taken(target) <= 1 << 16


def test_a_target_that_came_meanwhile_is_kept(target: Path) -> None:
    with (
        pytest.raises(TargetError, match="meanwhile"),
        resumable_file(target, False, MADE_OF) as (_, journal),
    ):
        journal.write(b"first", 0)
        target.write_text("other's")
    assert target.read_text() == "other's" and names(target) == {"out.gguf"}
    write(target, {0: b"first"}, force=True)
    assert target.read_bytes() == b"first"


def test_a_call_that_is_killed_as_it_gives_the_name_leaves_nothing_in_the_way(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the two moments between which it is killed one is long: the folder is written out."""
    seen = []
    monkeypatch.setattr(system, "sync_folder", lambda folder: seen.append(names(target)))
    write(target, {0: b"first"})
    assert seen == [{"out.gguf"}]
    partial_path(target).hardlink_to(target)
    write(target, {0: b"second"}, force=True)
    assert target.read_bytes() == b"second" and names(target) == {"out.gguf"}


def test_what_a_look_at_the_target_left_that_was_killed_is_cleared(target: Path) -> None:
    (target.parent / ".out.gguf.0badf00d.part").touch()
    check_target(target, force=False)
    assert names(target) == set()


def test_a_folder_in_which_nothing_can_be_locked_is_told_as_it_is(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(system, "lock", refuse)
    with pytest.raises(TargetError, match="can't be written: No locks available"):
        write(target, {0: b"first"})


def test_values_that_are_no_numbers_are_met_again_after_an_interruption(
    checkpoint: Callable[..., Path], target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The piece that has them is written before the conversion is cut short in the same tensor."""
    monkeypatch.setattr(pieces, "PIECE", 1 << 12)
    folder = checkpoint()
    first = next(iter(open_checkpoint(folder).weights.values()))
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(first.offset)
        file.write(b"\xc0\x7f")  # NaN in BF16

    def convert(progress: Callable[[Progress], None] | None) -> None:
        opened = open_checkpoint(folder)
        write_gguf(
            opened, target, named_quantization("Q8_0"), origin="a@1", progress=progress, threads=1
        )

    def interrupt(progress: Progress) -> None:
        if progress.parameters > 5 << 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(interrupt)
    assert not partial_path(target).exists()  # nothing before them was worth keeping
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(first.offset)
        file.write(b"\0\0")
        file.seek(first.offset + 3 * 2 * (1 << 12))
        file.write(b"\xc0\x7f")
    with pytest.raises(KeyboardInterrupt):
        convert(interrupt)
    assert partial_path(target).exists()
    with pytest.raises(CheckpointError, match="1 values that are NaN"):
        convert(None)
    assert not partial_path(target).exists()
