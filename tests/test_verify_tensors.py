"""Tensors that aren't the checkpoint's are caught, and what became of them is told."""

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type

from convert import convert
from convert.checkpoint import open_checkpoint
from convert.kernels import quantize
from convert.stored import read_rows
from convert.tensors import permute_heads
from llamacli.verify.report import Report, verify
from tests.standins.checkpoint import shape_config, write_checkpoint
from tests.standins.rewritten import Tensors, rewrite

DEMO = Path(__file__).parents[1] / "llamacli" / "demo"
QUANTS = ("F32", "BF16", "F16", "Q8_0", "Q4_K_M")
Q, K, V, DOWN = (f"blk.1.{name}.weight" for name in ("attn_q", "attn_k", "attn_v", "ffn_down"))
NORM, HEAD_DIM = "blk.1.attn_norm.weight", 64

Original = Callable[[str], np.ndarray]
Change = Callable[[Tensors, Original], None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verify") / "checkpoint"
    write_checkpoint(folder, shape_config("tiny"))
    for quant in QUANTS:
        convert(folder, folder.parent / f"{quant}.gguf", quant)
    return folder


def broken(folder: Path, quant: str, change: Change) -> Path:
    """The file with some tensors changed; original gives float32 values in Hugging Face's order."""
    weights = {spec.name: (spec, s) for spec, s in open_checkpoint(folder).weights.items()}

    def original(name: str) -> np.ndarray:
        spec, stored = weights[name]
        return read_rows(stored).reshape(spec.shape)

    return rewrite(
        folder.parent / f"{quant}.gguf",
        folder.parent / "broken.gguf",
        tensors=lambda tensors: change(tensors, original),
    )


def put(tensors: Tensors, name: str, values: np.ndarray) -> None:
    """Values in the type that the tensor has, shape kept."""
    data, kind = tensors[name]
    rows = np.ascontiguousarray(values, np.float32).reshape(-1, values.shape[-1])
    if kind in (Type.F32, Type.F16, Type.BF16):
        stored = gguf.quants.quantize(rows, kind)
    else:
        stored = quantize(kind, rows)
    tensors[name] = (stored.view(data.dtype).reshape(data.shape), kind)


def problems(report: Report, row: str = "tensors") -> str:
    return "\n".join(next(r for r in report.rows if r.name == row).problems)


def zeroed(tensors: Tensors, original: Original) -> None:
    put(tensors, DOWN, np.zeros_like(original(DOWN)))


def neighbours(tensors: Tensors, original: Original) -> None:
    other = DOWN.replace("blk.1", "blk.0")
    put(tensors, DOWN, original(other))
    put(tensors, other, original(DOWN))


def keys_for_values(tensors: Tensors, original: Original) -> None:
    put(tensors, V, permute_heads(original(K), HEAD_DIM))


def transposed(tensors: Tensors, original: Original) -> None:
    put(tensors, Q, permute_heads(original(Q).T, HEAD_DIM))


def transposed_after(tensors: Tensors, original: Original) -> None:
    put(tensors, Q, permute_heads(original(Q), HEAD_DIM).T)


def transposed_alone(tensors: Tensors, original: Original) -> None:
    put(tensors, Q, original(Q).T)


def output_transposed(tensors: Tensors, original: Original) -> None:
    put(tensors, "blk.1.attn_output.weight", original("blk.1.attn_output.weight").T)


def unpermuted(tensors: Tensors, original: Original) -> None:
    put(tensors, K, original(K))


def permuted_twice(tensors: Tensors, original: Original) -> None:
    put(tensors, K, permute_heads(permute_heads(original(K), HEAD_DIM), HEAD_DIM))


def scaled(tensors: Tensors, original: Original) -> None:
    put(tensors, DOWN, original(DOWN) * np.float32(1.05))


def negated(tensors: Tensors, original: Original) -> None:
    put(tensors, DOWN, -original(DOWN))


def one_block(tensors: Tensors, original: Original) -> None:
    values = original(DOWN).copy()
    values[37, 256:512] = values[36, 256:512]
    put(tensors, DOWN, values)


def random_weights(tensors: Tensors, original: Original) -> None:
    shape = original(DOWN).shape
    put(tensors, DOWN, np.random.default_rng(9).standard_normal(shape) * 0.02)


CHANGES: dict[str, tuple[Change, str]] = {
    "zeroed": (zeroed, f"{DOWN}: all its values are zero"),
    "neighbours": (neighbours, f"{DOWN}: it holds the values of blk.0.ffn_down.weight"),
    "keys for values": (keys_for_values, f"{V}: it holds the values of {K}"),
    "transposed": (transposed, f"{Q}: it is transposed"),
    "transposed after": (transposed_after, f"{Q}: it is transposed"),
    "transposed alone": (transposed_alone, f"{Q}: it is transposed, and its rows aren't permuted"),
    "output transposed": (output_transposed, "blk.1.attn_output.weight: it is transposed"),
    "unpermuted": (unpermuted, f"{K}: its rows aren't permuted"),
    "permuted twice": (permuted_twice, f"{K}: its rows are permuted twice"),
    "scaled": (scaled, f"{DOWN}: it is scaled by 1.05"),
    "negated": (negated, f"{DOWN}: it is scaled by -1"),
    "one block": (one_block, "the first is in row 37, columns 256 to "),
    "random": (random_weights, f"{DOWN}: "),
}


@pytest.mark.parametrize("quant", QUANTS)
@pytest.mark.parametrize("name", CHANGES)
def test_a_broken_tensor_is_named(folder: Path, name: str, quant: str) -> None:
    change, words = CHANGES[name]
    report = verify(broken(folder, quant, change), folder)
    assert report.failed == ("tensors",)
    assert words in problems(report)
    expected = 2 if name == "neighbours" else 1
    assert len(problems(report).splitlines()) == expected


def test_values_that_are_not_finite(folder: Path) -> None:
    def change(tensors: Tensors, original: Original) -> None:
        tensors[NORM][0][3] = np.nan

    report = verify(broken(folder, "Q8_0", change), folder)
    assert report.failed == ("tensors",) and f"{NORM}: it has values that are NaN" in problems(
        report
    )


def test_a_norm_that_is_off_by_a_bit(folder: Path) -> None:
    def change(tensors: Tensors, original: Original) -> None:
        tensors[NORM][0].view(np.uint32)[3] ^= 1

    report = verify(broken(folder, "Q8_0", change), folder)
    assert report.failed == ("tensors",) and f"{NORM}: 1 of 1 blocks" in problems(report)


def test_missing_and_foreign_tensors_and_shapes(folder: Path) -> None:
    def change(tensors: Tensors, original: Original) -> None:
        del tensors[DOWN], tensors["output.weight"]
        tensors["blk.1.ffn_down.bias"] = tensors[NORM]
        tensors["blk.0.ffn_up.weight"] = tensors["blk.0.ffn_down.weight"]

    report = verify(broken(folder, "Q8_0", change), folder)
    assert report.failed[0] == "file" and "tensors" in report.failed
    for words in (f"{DOWN} is missing", "output.weight is missing", "ffn_down.bias is not in the",
                  "blk.0.ffn_up.weight has the shape [256, 512], the checkpoint's [512, 256]; it w"
                  ):  # fmt: skip
        assert words in problems(report)


def test_rope_factors_changed_or_left_out(folder: Path) -> None:
    def change(tensors: Tensors, original: Original) -> None:
        tensors["rope_freqs.weight"][0][30] *= 1.01

    report = verify(broken(folder, "Q8_0", change), folder)
    assert report.failed == ("rope",) and "the frequency of pair 30" in problems(report, "rope")

    report = verify(broken(folder, "Q8_0", lambda t, _: t.pop("rope_freqs.weight")), folder)
    assert report.failed == ("rope",) and "is missing" in problems(report, "rope")
