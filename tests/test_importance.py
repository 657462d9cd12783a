"""Importance matrices: both kinds of files, hostile ones, merging, and whether one fits a model."""

import os
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest

from convert import ImportanceError, SourceError, convert, read_importance, write_importance
from convert.config import LlamaConfig
from convert.importance import Entry, ImportanceMatrix, importances_for, merged_importances
from convert.importance_file import MAX_FILE
from convert.kernels import LARGEST_F16, ggml_kernel
from convert.kernels.ggml import CODEBOOKS
from convert.tensors import TensorSpec, llama_tensors
from tests.standins.checkpoint import shape_config, write_checkpoint

CONFIG = shape_config("tiny", num_hidden_layers=1, vocab_size=544)


def specs() -> list[TensorSpec]:
    return list(llama_tensors(LlamaConfig.from_dict(CONFIG)))


def matrix(seed: int = 0, count: float = 1024.0) -> ImportanceMatrix:
    random = np.random.default_rng(seed)
    entries = {
        spec.name: Entry(random.random(spec.columns, np.float32), count)
        for spec in specs()
        if len(spec.shape) == 2 and spec.name.startswith("blk.")
    }
    return ImportanceMatrix(entries, ("a.txt", "b.txt"), 2, 512)


def same(a: ImportanceMatrix, b: ImportanceMatrix) -> bool:
    return a.entries.keys() == b.entries.keys() and all(
        entry.count == b.entries[name].count and np.array_equal(entry.sums, b.entries[name].sums)
        for name, entry in a.entries.items()
    )


def write_dat(path: Path, importance: ImportanceMatrix, calls: int = 2, end: bytes = b"") -> Path:
    """As llama-imatrix wrote it: mean squares times chunks."""
    parts = [struct.pack("<i", len(importance.entries))]
    for name, entry in importance.entries.items():
        values = entry.importances * np.float32(calls)
        parts += [struct.pack("<i", len(name)), name.encode()]
        parts += [struct.pack("<ii", calls, values.size), values.tobytes()]
    path.write_bytes(b"".join(parts) + end)
    return path


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    write_importance(path, matrix())
    again = read_importance(path)
    assert same(again, matrix())
    assert (again.datasets, again.chunks, again.chunk_size) == (("a.txt", "b.txt"), 2, 512)
    assert again.file == "m.gguf"


def test_the_file_is_as_llama_cpp_writes_it(tmp_path: Path) -> None:
    write_importance(tmp_path / "m.gguf", matrix())
    reader = gguf.GGUFReader(tmp_path / "m.gguf")
    assert reader.fields["general.type"].contents() == "imatrix"
    assert reader.fields["imatrix.datasets"].contents() == ["a.txt", "b.txt"]
    assert "general.architecture" not in reader.fields
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    assert list(tensors["blk.0.ffn_down.weight.in_sum2"].shape) == [512, 1]
    assert list(tensors["blk.0.ffn_down.weight.counts"].shape) == [1, 1]
    assert len(tensors) == 14


END = struct.pack("<ii", 2, 5) + b"a.txt"


@pytest.mark.parametrize("end", [b"", struct.pack("<i", 2), END])
def test_the_older_kind_is_read(tmp_path: Path, end: bytes) -> None:
    again = read_importance(write_dat(tmp_path / "m.dat", matrix(), end=end))
    for name, entry in matrix().entries.items():
        assert np.allclose(again.entries[name].importances, entry.importances, rtol=1e-6)
    assert (again.chunks, again.datasets) == ((2 if end else 0), (("a.txt",) if end == END else ()))


def test_merging_adds_activations() -> None:
    one, other = matrix(1, 1024.0), matrix(2, 512.0)
    both = merged_importances([one, other])
    for name, entry in both.entries.items():
        assert entry.count == 1536
        assert np.array_equal(entry.sums, one.entries[name].sums + other.entries[name].sums)
    assert (both.chunks, both.datasets) == (4, ("a.txt", "b.txt") * 2)


def test_the_older_kind_merges_by_chunks(tmp_path: Path) -> None:
    old = read_importance(write_dat(tmp_path / "m.dat", matrix(1)))
    both = merged_importances([old, matrix(2)])
    entry = both.entries["blk.0.attn_q.weight"]
    assert entry.count == 2048
    expected = matrix(1).entries["blk.0.attn_q.weight"].sums
    assert np.allclose(
        entry.sums - matrix(2).entries["blk.0.attn_q.weight"].sums, expected, atol=1e-4
    )


def test_what_overflows_where_it_is_added_is_told() -> None:
    """Each may be read; their sum was written as infinite, and couldn't be read any more."""
    large = changed("blk.0.attn_q.weight", Entry(np.full(256, 3e38, np.float32), 1e19))
    with pytest.raises(ImportanceError, match="sums that are negative, infinite"):
        merged_importances([large, large])


def test_absurd_numbers_of_chunks_count_as_unknown(tmp_path: Path) -> None:
    """Their sum was no number of 32 bits, over which writing it ended with a traceback."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gguf.GGUFWriter, "add_uint32", gguf.GGUFWriter.add_uint64)
        huge = replace(matrix(), chunks=1 << 40, chunk_size=1 << 40)
        write_importance(tmp_path / "huge.gguf", huge)
    write_dat(tmp_path / "huge.dat", matrix(), end=struct.pack("<ii", 2**31 - 1, 0))
    for name in ("huge.gguf", "huge.dat"):
        read = read_importance(tmp_path / name)
        write_importance(tmp_path / "sum.gguf", merged_importances([read] * 3), force=True)
        again = read_importance(tmp_path / "sum.gguf")
        assert (again.chunks, again.chunk_size) == (0, 0)


def test_those_of_different_models_dont_merge() -> None:
    other = replace(matrix(), entries=dict(list(matrix().entries.items())[1:]))
    with pytest.raises(ImportanceError, match="it isn't of"):
        merged_importances([matrix(), other])
    narrow = {name: Entry(entry.sums[:1], 1.0) for name, entry in matrix().entries.items()}
    with pytest.raises(ImportanceError, match="isn't as wide"):
        merged_importances([matrix(), replace(matrix(), entries=narrow)])


def test_importances_are_mean_squares() -> None:
    importances = importances_for(matrix(), specs())
    assert len(importances) == 7
    sums = matrix().entries["blk.0.ffn_up.weight"].sums
    assert np.array_equal(importances["blk.0.ffn_up.weight"], sums / np.float32(1024))


def changed(name: str, entry: Entry | None) -> ImportanceMatrix:
    entries = {**matrix().entries, name: entry}
    return replace(matrix(), entries={n: e for n, e in entries.items() if e is not None})


@pytest.mark.parametrize(
    ("importance", "told"),
    [
        (changed("blk.1.attn_q.weight", Entry(np.ones(256, np.float32), 1)), "it has blk.1.attn_q"),
        (changed("blk.0.attn_q.weight", None), "no entry for blk.0.attn_q.weight"),
        (changed("blk.0.ffn_up.weight", Entry(np.ones(512, np.float32), 1)), "512 importances, "),
        (changed("output.weight", Entry(np.ones(8, np.float32), 1)), "output.weight has 8"),
    ],
)
def test_another_models_matrix_is_told(
    importance: ImportanceMatrix, told: str, tmp_path: Path
) -> None:
    write_checkpoint(tmp_path / "checkpoint", CONFIG)
    with pytest.raises(ImportanceError, match=told):
        convert(tmp_path / "checkpoint", tmp_path / "out.gguf", "Q4_K_M", importance=importance)
    assert not [*tmp_path.glob("out*"), *tmp_path.glob(".out*")]


@pytest.mark.parametrize("bad", [np.nan, -np.inf, 1e30])
def test_what_no_codebook_has_is_told_and_not_looked_up(bad: float) -> None:
    """ggml ends the process over it in some types."""
    values, weights = np.full(512, 0.5, np.float32), np.ones(256, np.float32)
    values[300] = bad
    for kind in CODEBOOKS:
        out = np.zeros(2 * gguf.GGML_QUANT_SIZES[kind][1], np.uint8)
        assert ggml_kernel(kind)(values, out, weights) > LARGEST_F16
        assert not out.any()


def test_the_file_says_what_it_was_made_by(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "checkpoint", CONFIG)
    write_importance(tmp_path / "m.gguf", matrix())
    again = read_importance(tmp_path / "m.gguf")
    convert(tmp_path / "checkpoint", tmp_path / "out.gguf", "Q4_K_M", importance=again)
    fields = gguf.GGUFReader(tmp_path / "out.gguf").fields
    keys = {"file": "m.gguf", "dataset": "a.txt", "entries_count": 7, "chunks_count": 2}
    for key, value in keys.items():
        assert fields[f"quantize.imatrix.{key}"].contents() == value


def raw(path: Path, importance: ImportanceMatrix) -> bytearray:
    write_importance(path, importance)
    return bytearray(path.read_bytes())


def one_bad(value: float) -> ImportanceMatrix:
    sums = np.ones(256, np.float32)
    sums[17] = value
    return changed("blk.0.attn_q.weight", Entry(sums, 1.0))


def replaced(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    return lambda data: data.replace(old, new, 1)


@pytest.mark.parametrize(
    ("importance", "damage", "told"),
    [
        (one_bad(float("nan")), None, "attn_q.weight has sums that are negative, infinite or no"),
        (one_bad(float("inf")), None, "attn_q.weight has sums that are negative, infinite or no"),
        (one_bad(-1.0), None, "attn_q.weight has sums that are negative, infinite or no"),
        (one_bad(1e30), None, "attn_q.weight has sums that are absurdly large for a count of 1"),
        (matrix(count=1e-38), None, "absurdly large for a count of 1e-38"),
        (matrix(count=0.0), None, "no count of its activations, or one of 0"),
        (matrix(count=float("nan")), None, "no count of its activations, or one of 0"),
        (matrix(), replaced(b".counts", b".Counts"), "has no counts"),
        (matrix(), replaced(b".in_sum2", b".in_sum3"), "counts, but no sums"),
        (matrix(), replaced(b"imatrix", b"adapter"), "no importance matrix"),
        (matrix(), lambda data: data[:-100], "truncated"),
        (matrix(), lambda data: data[:300], "truncated|claim"),
        (matrix(), lambda data: data[:8] + b"\xff" * 8 + data[16:], "too many for a matrix"),
        (matrix(), lambda data: data[:4] + b"\x09" + data[5:], "version 9"),
        (replace(matrix(), entries={}), None, "has no entries"),
    ],
)
def test_damaged_files_are_told(tmp_path: Path, importance, damage, told: str) -> None:
    data = bytes(raw(tmp_path / "m.gguf", importance))
    (tmp_path / "m.gguf").write_bytes(damage(data) if damage else data)
    with pytest.raises(ImportanceError, match=told) as error:
        read_importance(tmp_path / "m.gguf")
    assert "m.gguf" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "truncated"),
        (b"\x00" * 64, "neither GGUF nor"),
        (b"\xff" * 64, "neither GGUF nor"),
        (struct.pack("<iii", 1, 1 << 30, 0) + b"x" * 100, "claims 1073741824 bytes"),
        (struct.pack("<ii", 1, -5) + b"x" * 100, "truncated"),
        (struct.pack("<ii", 1, 1) + b"x" + struct.pack("<ii", 1, 1 << 30), "truncated"),
        (struct.pack("<ii", 1, 1) + b"x" + struct.pack("<iif", 0, 1, 1.0), "no count"),
        (struct.pack("<ii", 1, 1) + b"x" + struct.pack("<ii", 1, 0), "0 sums"),
        (struct.pack("<i", 2) + (struct.pack("<i", 1) + b"x" + struct.pack("<iif", 1, 1, 1.0)) * 2,
         "twice"),
    ],
)  # fmt: skip
def test_damaged_files_of_the_older_kind_are_told(tmp_path: Path, data: bytes, told: str) -> None:
    (tmp_path / "m.dat").write_bytes(data)
    with pytest.raises(ImportanceError, match=told):
        read_importance(tmp_path / "m.dat")


def test_a_file_that_is_cut_anywhere_is_told(tmp_path: Path) -> None:
    small = replace(matrix(), entries={"blk.0.x": Entry(np.ones(3, np.float32), 1.0)})
    data = bytes(raw(tmp_path / "m.gguf", small)).rstrip(b"\0")
    old = write_dat(tmp_path / "m.dat", small).read_bytes()
    for whole in (data, old):
        for length in range(len(whole)):
            (tmp_path / "cut").write_bytes(whole[:length])
            with pytest.raises(ImportanceError):
                read_importance(tmp_path / "cut")


def test_what_isnt_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="can't be read: No such file"):
        read_importance(tmp_path / "none.gguf")


def test_what_has_no_end_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name in ("pipe", "zero", "."):
        with pytest.raises(ImportanceError, match="not a regular file"):
            read_importance(tmp_path / name)


def test_what_is_too_large_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "m.gguf").open("wb") as file:
        file.truncate(MAX_FILE + 1)
    with pytest.raises(ImportanceError, match="more than 256 MiB"):
        read_importance(tmp_path / "m.gguf")


def test_tensors_that_share_bytes_are_refused(tmp_path: Path) -> None:
    """Ten thousand records that all name the same megabyte would take ten gigabytes."""
    data = bytearray(raw(tmp_path / "m.gguf", matrix()))
    for name in matrix().entries:
        place = data.index(f"{name}.in_sum2".encode()) + len(name) + len(".in_sum2") + 4
        data[place : place + 8] = struct.pack("<Q", 4096)
    (tmp_path / "m.gguf").write_bytes(data)
    with pytest.raises(ImportanceError, match="claim more bytes than it has"):
        read_importance(tmp_path / "m.gguf")
