"""Measuring importance matrices: what is summed, going on after an interrupt, the command."""

import io
import os
import re
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest

from convert import Entry, ImportanceMatrix, lock, read_importance, write_importance
from llamacli.cli import main
from llamacli.errors import UsageError
from llamacli.prompt import Text
from llamacli.quality import imatrix as module, measure_importance
from llamacli.quality.activations import Activations
from tests.standins.checkpoint import shape_config, write_checkpoint
from tests.standins.tiny import write_model
from tests.systems import PLATFORM

# Other systems have no names that aren't Unicode.
ODD = os.fsdecode(b"one\xff.gguf") if PLATFORM == "linux" else "one.gguf"
TEXT = Text("a.txt", "ab cd, efgh ij! " * 300)  # some chunks' worth


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@pytest.fixture(scope="module")
def measured(tiny: Path) -> ImportanceMatrix:
    return measure_importance(tiny, [TEXT], chunks=3, threads=1)


def run(*words: str | Path) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    return int(ended.value.code or 0)


def test_every_matrix_of_a_block_is_measured(measured: ImportanceMatrix) -> None:
    assert len(measured.entries) == 14
    assert {entry.count for entry in measured.entries.values()} == {3 * 512}
    assert (measured.datasets, measured.chunks, measured.chunk_size) == (("a.txt",), 3, 512)
    for block in range(2):
        names = [f"blk.{block}.{part}.weight" for part in ("attn_q", "attn_k", "attn_v")]
        query, *others = (measured.entries[name].sums for name in names)
        assert all(np.array_equal(query, other) for other in others)


def test_sums_are_those_of_squared_activations(tiny: Path, measured: ImportanceMatrix) -> None:
    """Before the first block's attention the file alone tells them: they are normed embeddings."""
    from llamacli.engine import load_vocabulary

    tensors = {tensor.name: tensor.data for tensor in gguf.GGUFReader(tiny).tensors}
    vocabulary = load_vocabulary(tiny)
    tokens = vocabulary.tokenize(TEXT.text, bos=True)[: 3 * 512]
    tokens[::512] = [vocabulary.bos] * 3
    rows = tensors["token_embd.weight"][tokens].astype(np.float64)
    normed = rows / np.sqrt((rows**2).mean(axis=1, keepdims=True) + 1e-5)
    normed *= tensors["blk.0.attn_norm.weight"]
    sums = measured.entries["blk.0.attn_q.weight"].sums
    assert np.allclose(sums, (normed**2).sum(axis=0), rtol=1e-4)


def test_an_interrupted_call_is_gone_on_with(
    tiny: Path, measured: ImportanceMatrix, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEEP_EVERY", 0.0)
    evaluate, target, calls = Activations.evaluate, tmp_path / "m.gguf", []

    def interrupted(self, engine, tokens) -> None:
        calls.append(tokens)
        if len(calls) == 3:
            raise KeyboardInterrupt
        evaluate(self, engine, tokens)

    monkeypatch.setattr(Activations, "evaluate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        measure_importance(tiny, [TEXT], chunks=3, threads=1, target=target)
    assert len(list(tmp_path.glob(".m.gguf.*.kept"))) == 1 and not target.exists()
    told: list[str] = []
    resumed = measure_importance(
        tiny, [TEXT], chunks=3, threads=1, target=target, notice=told.append
    )
    assert told == ["going on after chunk 2, from what the last call has done"]
    assert len(calls) == 4
    for name, entry in measured.entries.items():
        assert np.allclose(resumed.entries[name].sums, entry.sums, rtol=1e-6)
        assert resumed.entries[name].count == entry.count
    measure_importance(tiny, [TEXT], chunks=1, threads=1, target=target)  # another job, from anew
    assert len(calls) == 5
    module.write_matrix(target, [resumed])
    assert target.exists() and not list(tmp_path.glob(".m.gguf*"))


def test_damaged_pieces_of_an_earlier_call_are_not_used(tmp_path: Path) -> None:
    target = tmp_path / "m.gguf"
    parts = [[1, 2, 3]]
    kept = module._kept_path(target, [1], parts)
    kept.write_bytes(b"GGUF")
    assert module._take_kept(kept, Activations(1)) == 0


def test_a_text_that_is_too_short_is_told(tiny: Path) -> None:
    with pytest.raises(UsageError, match=r"b.txt has \d+ tokens; a chunk has 512"):
        measure_importance(tiny, [TEXT, Text("b.txt", "a few words")], threads=1)


def test_a_piped_text_is_called_stdin(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a few words")))
    assert run("imatrix", tiny, "--text", "-", "--threads", "1") == 2
    assert capfd.readouterr().err.startswith("llamacli: stdin has ")


def test_the_command_measures_merges_and_says_where(
    tiny: Path, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    text, one, both = tmp_path / "a.txt", tmp_path / ODD, tmp_path / "both.gguf"
    text.write_text(TEXT.text)
    settings = ("--text", text, "--threads", "1")
    assert run("imatrix", tiny, *settings, "--chunks", "1", "-o", one) == 0
    assert capfdbinary.readouterr() == (os.fsencode(f"{one}\n"), b"")
    assert run("imatrix", tiny, *settings, "--chunks", "1", "-o", one) == 6
    assert b"exists already" in capfdbinary.readouterr().err
    assert run("imatrix", tiny, "--chunks", "0", "--add", one, "--add", one, "-o", both) == 0
    merged, single = read_importance(both), read_importance(one)
    assert merged.chunks == 2 and merged.datasets == ("a.txt", "a.txt")
    for name, entry in single.entries.items():
        assert np.array_equal(merged.entries[name].sums, 2 * entry.sums)


def test_the_text_that_ships_serves_by_default(tiny: Path, tmp_path: Path) -> None:
    target = tmp_path / "m.gguf"
    assert run("imatrix", tiny, "--chunks", "1", "--threads", "1", "-o", target) == 0
    assert read_importance(target).datasets == ("dialogues.json", "calibration.txt")


def test_the_text_that_ships_is_the_same_every_day(tiny: Path) -> None:
    """So that what a call has measured before midnight serves the next one."""
    from llamacli.engine import load_vocabulary

    template = "{{ strftime_now('%H:%M:%S.%f') }}{{ messages[0]['content'] }}"
    once, again = (list(module.calibration(load_vocabulary(tiny), template)) for _ in range(2))
    assert once == again


def test_nothing_to_measure_and_nothing_to_add_is_told(
    tiny: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run("imatrix", tiny, "--chunks", "0", "-o", tmp_path / "m.gguf") == 2
    assert "name matrices to add" in capfd.readouterr().err


def test_a_matrix_that_is_none_is_told(
    tiny: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "m.gguf"
    assert run("imatrix", tiny, "--add", tiny, "-o", target) == 3
    assert "no importance matrix" in capfd.readouterr().err
    assert run("imatrix", tiny, "--add", tmp_path / "none", "-o", target) == 4
    assert "there is no file" in capfd.readouterr().err
    other = tmp_path / "other.gguf"
    write_importance(other, ImportanceMatrix({"blk.0.x.weight": Entry(np.ones(4, np.float32), 1)}))
    assert run("imatrix", tiny, "--chunks", "0", "--add", other, "-o", target) == 3
    assert "it is of another model: it has blk.0.x.weight" in capfd.readouterr().err
    assert not target.exists()


def test_what_a_killed_call_has_left_is_removed(tmp_path: Path) -> None:
    """By the next call, whatever it makes. One that another call is at stays."""
    write_checkpoint(tmp_path / "tiny", shape_config("tiny", num_hidden_layers=1))
    target, others = tmp_path / "out.gguf", tmp_path / ".other.gguf.x.measuring"
    killed, running = (tmp_path / f".out.gguf.{name}.measuring" for name in ("killed", "running"))
    for left in (killed, running, others):
        left.mkdir()
        (left / "lock").touch()
        (left / "q8_0.gguf").touch()
    with (running / "lock").open("r+b") as held:
        lock(held.fileno())
        assert run("convert", tmp_path / "tiny", "--q8", "-o", target) == 0
    assert set(tmp_path.iterdir()) == {running, others, target, tmp_path / "tiny"}


def test_converting_measures_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """One command: a Q8_0 file, a matrix, the target; the first leaves nothing behind."""
    chunks = module._chunks  # of the dialogues alone
    monkeypatch.setattr(
        module, "_chunks", lambda vocabulary, sources, size: chunks(vocabulary, sources[:1], size)
    )
    folder = tmp_path / "made"
    write_checkpoint(
        folder / "checkpoint", shape_config("tiny", num_hidden_layers=1, vocab_size=1024)
    )
    target = folder / "out.gguf"
    words = ("convert", folder / "checkpoint", "--quant", "IQ2_M", "-o", target)
    assert run(*words, "--imatrix", "auto", "--threads", "1") == 0
    assert {path.name for path in folder.iterdir()} == {
        "checkpoint",
        "out.gguf",
        "out.imatrix.gguf",
    }
    fields = gguf.GGUFReader(target).fields
    assert fields["quantize.imatrix.file"].contents() == "out.imatrix.gguf"
    assert fields["quantize.imatrix.dataset"].contents() == "dialogues.json"
    del fields  # which map the file
    again = folder / "again.gguf"
    words = (*words[:-1], again, "--imatrix", folder / "out.imatrix.gguf")
    assert run(*words) == 0
    assert again.read_bytes() == target.read_bytes()
    capfd.readouterr()
    assert (
        run("convert", folder / "checkpoint", "--quant", "Q4_0", *words[4:], "--force", "--verify")
        == 0
    )
    err = capfd.readouterr().err
    found = re.search(r"errors weighed by it are (0\.\d+) of those without it.* 7 matrices", err)
    assert found and 0 < float(found[1]) < 1
    fitted = folder / "fitted.gguf"
    sized = ("convert", folder / "checkpoint", "--fit", f"{target.stat().st_size + 9000}B")
    assert run(*sized, "--imatrix", "auto", "-o", fitted, "--threads", "1") == 0
    assert fitted.stat().st_size <= target.stat().st_size + 9000
    assert (folder / "fitted.imatrix.gguf").read_bytes() == (
        folder / "out.imatrix.gguf"
    ).read_bytes()
    fields = gguf.GGUFReader(fitted).fields
    assert fields["quantize.imatrix.file"].contents() == "fitted.imatrix.gguf"
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    target.unlink()
    assert run("convert", folder / "checkpoint", "-o", target, "--imatrix", "auto") == 6
    assert "out.imatrix.gguf: it exists already" in capfd.readouterr().err
    assert not target.exists()


def test_weights_on_the_hub_are_kept_to_be_read_twice(capfd: pytest.CaptureFixture[str]) -> None:
    assert run("convert", "some/model", "--imatrix", "auto") == 2
    assert "--download" in capfd.readouterr().err
