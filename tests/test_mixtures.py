"""All mixtures of llama.cpp: the types its dry run logs, the bytes it makes, what it refuses."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from convert import QUANTIZATIONS, ImportanceError, QuantizationError, convert
from convert.checkpoint import Checkpoint, open_checkpoint
from convert.header import plan_tensors, write_header
from convert.importance import Entry, ImportanceMatrix, importances_for
from convert.quantization import (
    UNQUANTIZED,
    Quantization,
    adapted,
    named_quantization,
    requires_importance,
    tensor_type,
)
from convert.tensors import llama_tensors
from tests.quantized import (
    Importances,
    assert_same_tensors,
    quantize_by_llama_cpp,
    types_by_llama_cpp,
)
from tests.standins.checkpoint import shape_config, write_checkpoint

MIXTURES = [name for name, one in QUANTIZATIONS.items() if one.base not in UNQUANTIZED]
NAMES = pytest.mark.parametrize("name", MIXTURES)

# 70B; 8 query heads a key head, untied; 3 query heads a key head, tied.
SHAPES = {
    "70b": shape_config("70b", vocab_size=2048),
    "8b": shape_config("8b", vocab_size=2048),
    "3b": shape_config("3b", vocab_size=2048, tie_word_embeddings=True),
    "rows of 32s": shape_config("tiny", hidden_size=288, intermediate_size=672, head_dim=72),
    "rows of no block": shape_config("tiny", hidden_size=272, intermediate_size=520, head_dim=68),
}


def some_importances(checkpoint: Checkpoint) -> ImportanceMatrix:
    """A matrix for a checkpoint's blocks, log-normal, and some columns that were never active."""
    random = np.random.default_rng(7)
    entries = {}
    for spec in llama_tensors(checkpoint.config):
        if len(spec.shape) == 2 and spec.name.startswith("blk."):
            sums = np.exp(random.normal(0, 2, spec.columns)).astype(np.float32)
            sums[random.random(spec.columns) < 0.01] = 0
            entries[spec.name] = Entry(sums, 512.0)
    return ImportanceMatrix(entries, ("some.txt",), 1, 512, "some.imatrix")


def our_types(mixture: Quantization, checkpoint: Checkpoint) -> dict[str, str]:
    config = checkpoint.config
    matrices = [spec for spec in checkpoint.weights if len(spec.shape) == 2]
    return {spec.name: tensor_type(mixture, spec, config).name for spec in matrices}


@pytest.fixture(scope="module", params=SHAPES)
def outline(request, tmp_path_factory) -> tuple[Checkpoint, Path, Importances]:
    """A checkpoint without data, its BF16 file, which is a hole, and importances for it."""
    folder = tmp_path_factory.mktemp("outline")
    write_checkpoint(folder / "checkpoint", SHAPES[request.param], sparse=True)
    checkpoint = open_checkpoint(folder / "checkpoint")
    source, bf16 = folder / "bf16.gguf", named_quantization("BF16")
    tensors = plan_tensors(checkpoint.config, bf16)
    start = write_header(source, checkpoint, bf16, tensors)
    os.truncate(source, start + tensors[-1].offset + tensors[-1].nbytes)
    return checkpoint, source, {"blk.0.attn_q.weight": np.ones(1, np.float32)}


@NAMES
def test_types_are_those_of_llama_cpps_dry_run(outline, name: str) -> None:
    checkpoint, source, importances = outline
    mixture = QUANTIZATIONS[name]
    weighted = replace(mixture, importance=some_importances(checkpoint).origin)
    assert our_types(mixture, checkpoint) == types_by_llama_cpp(source, mixture)
    expected = types_by_llama_cpp(source, mixture, importances)
    assert our_types(weighted, checkpoint) == expected


WISHES = {
    "a part": {"overrides": ["ffn_down=Q6_K"]},
    "the first that fits": {
        "overrides": [r"blk\.(1|3)\.attn_v=Q8_0", "attn_v=IQ4_NL", r"\.[0-2]\.ffn_=Q3_K"]
    },
    "everything": {"overrides": ["weight=Q5_0"]},
    "both ends": {"output": "Q5_K", "embedding": "Q4_1"},
    "the output, and ends by pattern": {"output": "Q5_K", "overrides": ["^(token|output)=Q4_0"]},
}


@pytest.mark.parametrize("name", ["Q4_K_M", "Q3_K_M", "IQ2_M"])
@pytest.mark.parametrize("wish", WISHES.values(), ids=WISHES)
@pytest.mark.parametrize("outline", ["8b", "3b"], indirect=True)
def test_types_of_ones_own(outline, name, wish) -> None:
    checkpoint, source, _ = outline
    mixture = adapted(QUANTIZATIONS[name], **wish)
    expected = types_by_llama_cpp(source, mixture, overrides=wish.get("overrides", ()))
    assert our_types(mixture, checkpoint) == expected


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """A checkpoint of one narrow layer, and its BF16 file."""
    folder = tmp_path_factory.mktemp("small")
    config = shape_config(
        "tiny", num_hidden_layers=1, vocab_size=544, intermediate_size=256, head_dim=32
    )
    write_checkpoint(folder / "checkpoint", config)
    convert(folder / "checkpoint", folder / "bf16.gguf", "BF16")
    return folder


@NAMES
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_bytes_are_llama_cpps(small: Path, name: str, weighted: bool) -> None:
    mixture = QUANTIZATIONS[name]
    checkpoint = open_checkpoint(small / "checkpoint")
    matrix = some_importances(checkpoint) if weighted else None
    importances = None if matrix is None else importances_for(matrix, list(checkpoint.weights))
    theirs = small / "theirs.gguf"
    status = quantize_by_llama_cpp(small / "bf16.gguf", theirs, mixture, importances)
    ours = small / f"{name}-{weighted}.gguf"
    if status:
        assert matrix is None
        with pytest.raises(ImportanceError, match=r"garbage of .* without an importance matrix"):
            convert(small / "checkpoint", ours, name)
        assert not ours.exists()
        return
    convert(small / "checkpoint", ours, name, importance=matrix)
    assert_same_tensors(ours, theirs)


def test_what_needs_a_matrix_is_what_llama_cpp_refuses() -> None:
    needy = {
        name
        for name in MIXTURES
        if requires_importance(QUANTIZATIONS[name], "blk.0.attn_q.weight", QUANTIZATIONS[name].base)
    }
    assert needy == {
        "IQ3_XXS", "IQ2_M", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S", "Q2_K_S",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("wish", "told"),
    [
        ({"overrides": ["ffn_down"]}, "is not PATTERN=TYPE"),
        ({"overrides": ["=Q8_0"]}, "is not PATTERN=TYPE"),
        ({"overrides": ["(=Q8_0"]}, "no regular expression"),
        ({"overrides": ["x=Q9"]}, "unknown tensor type 'Q9'; choose one of F32, "),
        ({"output": "Q4_K_M"}, "unknown tensor type 'Q4_K_M'"),
        ({"embedding": ""}, "unknown tensor type ''"),
    ],
)
def test_wishes_that_are_no_types_are_told(wish, told: str) -> None:
    with pytest.raises(QuantizationError, match=told):
        adapted(QUANTIZATIONS["Q4_K_M"], **wish)
