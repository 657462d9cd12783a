"""Every tensor's bytes equal what llama.cpp's own quantizer makes of our BF16 file."""

import json
from pathlib import Path

import numpy as np
import pytest

from convert import QUANTIZATIONS, convert, open_checkpoint, pipeline
from convert.importance import importances_for
from tests.quantized import assert_same_tensors, quantize_by_llama_cpp
from tests.standins.checkpoint import shape_config, write_checkpoint
from tests.test_mixtures import some_importances

KQUANTS = ["Q4_K_M", "Q4_K_S", "Q5_K_M", "Q6_K", "Q8_0"]

# The longest rows that 8B and 1B have, in all types that their layers get; few rows, since they are
# quantized one like the other. Whole matrices of 8B are in a test of their own.
SHAPES = {
    "8b": shape_config("8b", num_hidden_layers=2, vocab_size=1024, hidden_size=256),
    "1b tied": shape_config("1b", num_hidden_layers=2, vocab_size=1024, hidden_size=256),
    "rows of 32s": shape_config("tiny", hidden_size=288, intermediate_size=672, head_dim=72),
    "rows of no block": shape_config("tiny", hidden_size=272, intermediate_size=520, head_dim=68),
    "tied rows of 32s": shape_config("tiny", hidden_size=288, tie_word_embeddings=True),
    "eight layers": shape_config("tiny", num_hidden_layers=8),
    "more heads": shape_config("tiny", num_hidden_layers=3, num_key_value_heads=4),
}
LARGE = ("8b", "1b tied")


@pytest.fixture(scope="module", params=SHAPES)
def converted(request, tmp_path_factory):
    """A checkpoint of each shape, and its BF16 file."""
    folder = tmp_path_factory.mktemp("bytes")
    write_checkpoint(folder / "checkpoint", SHAPES[request.param])
    convert(folder / "checkpoint", folder / "bf16.gguf", "BF16")
    return folder


@pytest.mark.parametrize("name", KQUANTS)
def test_bytes_equal_llama_cpp(
    converted: Path, name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if request.node.callspec.params["converted"] in LARGE:  # by the kernels that these get
        monkeypatch.setattr(pipeline, "SMALL", 0)
    convert(converted / "checkpoint", converted / "ours.gguf", name, force=True)
    bf16, theirs = converted / "bf16.gguf", converted / "theirs.gguf"
    assert quantize_by_llama_cpp(bf16, theirs, QUANTIZATIONS[name]) == 0
    assert_same_tensors(converted / "ours.gguf", converted / "theirs.gguf")


@pytest.mark.parametrize(
    ("converted", "name"),
    [("1b tied", "Q4_K_M"), *(("rows of 32s", name) for name in ("Q4_K_M", "IQ4_XS", "Q3_K_M"))],
    indirect=["converted"],
)
def test_bytes_by_importance_equal_llama_cpp(
    converted: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the compiled kernels, where numba is installed, and in pieces."""
    monkeypatch.setattr(pipeline, "SMALL", 0)
    monkeypatch.setattr("convert.pieces.PIECE", 1 << 17)
    checkpoint = open_checkpoint(converted / "checkpoint")
    matrix = some_importances(checkpoint)
    given = importances_for(matrix, list(checkpoint.weights))
    ours, theirs = converted / "ours.gguf", converted / "theirs.gguf"
    convert(converted / "checkpoint", ours, name, importance=matrix, force=True)
    status = quantize_by_llama_cpp(converted / "bf16.gguf", theirs, QUANTIZATIONS[name], given)
    assert status == 0
    assert_same_tensors(ours, theirs)


def fill_some_rows(path: Path, every: int) -> None:
    """Random weights, in BF16, into every so many rows of a safetensors file's matrices."""
    rng = np.random.default_rng(1)
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    for entry in header.values():
        if len(shape := entry.get("shape", ())) == 2:
            start = 8 + length + entry["data_offsets"][0]
            rows = np.memmap(path, np.uint16, "r+", start, tuple(shape))[::every]
            values = rng.standard_normal(rows.shape, np.float32) * np.float32(0.02)
            rows[:] = values.view(np.uint32) >> 16


def test_whole_matrices_of_8b(tmp_path: Path) -> None:
    """All rows of the embedding, which is the output, and a layer: 740 million weights, most of
    them 0, which the quantizers are through with at once."""
    config = shape_config("8b", num_hidden_layers=1, tie_word_embeddings=True)
    write_checkpoint(tmp_path / "checkpoint", config, sparse=True)
    fill_some_rows(tmp_path / "checkpoint" / "model.safetensors", every=101)
    convert(tmp_path / "checkpoint", tmp_path / "bf16.gguf", "BF16")
    convert(tmp_path / "checkpoint", tmp_path / "ours.gguf", "Q4_K_M")
    bf16, theirs = tmp_path / "bf16.gguf", tmp_path / "theirs.gguf"
    assert quantize_by_llama_cpp(bf16, theirs, QUANTIZATIONS["Q4_K_M"]) == 0
    assert_same_tensors(tmp_path / "ours.gguf", tmp_path / "theirs.gguf")


@pytest.mark.parametrize("dtype", ["F16", "F32"])
def test_other_source_types(tmp_path: Path, dtype: str) -> None:
    """F16 and F32 checkpoints: compared through the file of the same precision."""
    write_checkpoint(tmp_path / "checkpoint", shape_config("tiny"), dtype=dtype)
    convert(tmp_path / "checkpoint", tmp_path / "source.gguf", dtype)
    convert(tmp_path / "checkpoint", tmp_path / "ours.gguf", "Q4_K_M")
    source, theirs = tmp_path / "source.gguf", tmp_path / "theirs.gguf"
    assert quantize_by_llama_cpp(source, theirs, QUANTIZATIONS["Q4_K_M"]) == 0
    assert_same_tensors(tmp_path / "ours.gguf", tmp_path / "theirs.gguf")
