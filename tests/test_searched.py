"""Q8_0 by a search for scales: less error, as a plain Q8_0 file, the same bytes compiled or not."""

from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from numpy.typing import NDArray

from convert import convert, open_checkpoint, write_gguf
from convert.kernels import INFINITY, choice, ggml_kernel, searched_kernel
from convert.kernels.comparison import differences, importances, samples
from convert.kernels.ggml import Kernel
from convert.quantization import by_recipe

DEMO = Path(__file__).parents[1] / "llamacli" / "demo"
KINDS = [name for name, _ in samples(1)]


def errors(
    kernel: Kernel, values: NDArray[np.float32], weights: NDArray[np.float32] | None = None
) -> float:
    """The sum of squares, each times its column's weight, in float64."""
    out = np.empty(values.size // 32 * 34, np.uint8)
    kernel(values, out, weights)
    back = gguf.quants.dequantize(out, Type.Q8_0).astype(np.float64)
    squares = (values.astype(np.float64) - back) ** 2
    return float(
        (squares if weights is None else squares.reshape(-1, weights.size) * weights).sum()
    )


@pytest.mark.parametrize("name", KINDS)
def test_no_kind_of_values_has_more_error(name: str) -> None:
    """Beside ggml's, whose scale isn't among those tried; float16 steps of tiny ones are coarse."""
    values = np.ascontiguousarray(dict(samples(64))[name]).reshape(-1)
    values = np.clip(values, -65504, 65504)
    weights = importances(1024)
    for given in (None, weights):
        ours = errors(searched_kernel(Type.Q8_0), values, given)
        assert ours <= errors(ggml_kernel(Type.Q8_0), values, given) * 1.0001


def test_natural_weights_have_a_fifth_less() -> None:
    _, values = next(samples(512))
    ours, theirs = (errors(kernel(Type.Q8_0), values) for kernel in (searched_kernel, ggml_kernel))
    assert ours < 0.8 * theirs


def test_importances_count() -> None:
    _, values = next(samples(512))
    weights = importances(1024)
    kernel = searched_kernel(Type.Q8_0)
    plain = ggml_kernel(Type.Q8_0)
    blind = lambda v, out, _=None: kernel(v, out)  # noqa: E731
    assert errors(kernel, values, weights) < 0.9 * errors(blind, values, weights)
    assert errors(blind, values, weights) < errors(plain, values, weights)


def test_compiled_it_gives_the_same_bytes() -> None:
    pytest.importorskip("numba", reason="the extra llamacli[fast] is not installed")
    chosen, reference = choice.choose(Type.Q8_0, searched=True), searched_kernel(Type.Q8_0)
    assert chosen is not reference
    assert differences(chosen, reference, choice.chunk_nbytes(Type.Q8_0), 100) == []
    rows = next(samples(18))[1][: 7 * 576]
    weights = importances(576)
    ours, theirs = np.zeros((2, rows.size // 32 * 34), np.uint8)
    chosen(rows, ours, weights)
    reference(rows, theirs, weights)
    assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_told(bad: float) -> None:
    values = next(samples(2))[1].copy()
    values[77] = bad
    assert searched_kernel(Type.Q8_0)(values, np.empty(16 * 34, np.uint8)) >= INFINITY


def test_a_recipe_is_made_by_it_and_a_name_as_llama_cpp_does(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(DEMO)
    matrices = [spec.name for spec in checkpoint.weights if len(spec.shape) == 2]
    ours = by_recipe("ours", dict.fromkeys(matrices, Type.Q8_0))
    write_gguf(checkpoint, tmp_path / "ours.gguf", ours)
    convert(DEMO, tmp_path / "named.gguf", "Q8_0")
    read = [gguf.GGUFReader(tmp_path / name).tensors for name in ("ours.gguf", "named.gguf")]
    changed = {
        one.name
        for one, other in zip(*read, strict=True)
        if not np.array_equal(one.data, other.data)
    }
    assert changed == set(matrices)
    types = {tensor.tensor_type for tensor in read[0] if tensor.name in matrices}
    assert types == {Type.Q8_0}
