"""What a model's predictions hang on, told by its own gradients: against llama.cpp and in fact."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from convert import convert, open_checkpoint
from convert.fisher import _rounding, fisher_information
from convert.network import Model, Norm, forward
from llamacli.quality import sample_tokens
from llamacli.verify import all_logits, open_evaluator
from tests.standins.checkpoint import shape_config, write_checkpoint

PARTS = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
DEMO = Path(__file__).parents[1] / "llamacli" / "demo"


@pytest.fixture(scope="module")
def biased(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fisher") / "biased"
    scaling = {"rope_type": "linear", "factor": 2.0}
    write_checkpoint(
        folder, shape_config("tiny", attention_bias=True, mlp_bias=True, rope_scaling=scaling)
    )
    return folder


def logits(
    folder: Path, ids: NDArray[np.int64], matrix: str = "", step: float = 0.0
) -> NDArray[np.float32]:
    """By the forward pass that gradients are computed from; a matrix' values may be off, by random
    steps.
    """
    model = Model(open_checkpoint(folder), len(ids), lambda *_: None)
    read = model._read

    def off(name: str, first: int, count: int) -> NDArray[np.float32]:
        values = read(name, first, count)
        dice = np.random.default_rng([7, first])  # the same however often it is read
        return values + step * (name == matrix) * dice.standard_normal(values.shape, np.float32)

    model._read = off  # type: ignore[method-assign]
    norm = Norm(forward(model, ids)[0], model.vector("output_norm.weight"), 1e-5)
    return model.times(model.output, norm.output)


@pytest.mark.parametrize("which", ["demo", "biased"])
def test_the_forward_pass_is_llama_cpps(which: str, biased: Path, tmp_path: Path) -> None:
    folder = DEMO if which == "demo" else biased
    ids = np.random.default_rng(1).integers(0, 900, 40)
    convert(folder, tmp_path / "x.gguf", "F32")
    with open_evaluator(tmp_path / "x.gguf", 64, 1) as engine:
        theirs = np.concatenate([part.copy() for part in all_logits(engine, ids.tolist())])
    ours = logits(folder, ids)
    assert np.abs(ours - theirs).max() < 2e-3 * np.abs(theirs).max()


def test_errors_cost_what_the_gradients_tell() -> None:
    """Random errors of one matrix at a time, in the trained model."""
    checkpoint = open_checkpoint(DEMO)
    tokens = sample_tokens(checkpoint)
    ids = np.array(tokens)
    information = fisher_information(checkpoint, tokens).columns
    precise = log_softmax(logits(DEMO, ids))
    ratios = {}
    rows = {spec.name: spec.rows for spec in checkpoint.weights}
    for name in ("token_embd", *(f"blk.1.{part}" for part in PARTS), "blk.3.ffn_down"):
        name += ".weight"
        step = float(np.sqrt(1e-3 / (rows[name] * information[name].sum())))
        off = log_softmax(logits(DEMO, ids, name, step))
        divergence = (np.exp(precise) * (precise - off)).sum(axis=1).mean()
        ratios[name] = float(divergence / 1e-3)
    assert all(0.7 < ratio < 1.4 for ratio in ratios.values()), ratios
    assert 0.85 < np.mean(list(ratios.values())) < 1.15, ratios


@pytest.mark.parametrize("block", [32, 256])
def test_rounded_inputs_cost_what_the_gradients_tell(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one matrix at a time, as llama.cpp rounds them for types of 8 bits and of super-blocks."""
    checkpoint = open_checkpoint(DEMO)
    tokens = sample_tokens(checkpoint)
    ids = np.array(tokens)
    rounding = fisher_information(checkpoint, tokens).rounding
    precise = log_softmax(logits(DEMO, ids))
    times, ratios = Model.times, {}
    for part in PARTS:
        name = f"blk.1.{part}.weight"

        def rounded(
            self: Model, matrix: str, inputs: NDArray[np.float32], name: str = name
        ) -> NDArray[np.float32]:
            off = inputs + 4 * _rounding(inputs, block) if matrix == name else inputs
            return times(self, matrix, off)

        monkeypatch.setattr(Model, "times", rounded)
        off = log_softmax(logits(DEMO, ids))
        divergence = (np.exp(precise) * (precise - off)).sum(axis=1).mean()
        ratios[name] = float(divergence / (16 * rounding[name][block]))
    assert all(0.5 < ratio < 2 for ratio in ratios.values()), ratios


def log_softmax(values: NDArray[np.float32]) -> NDArray[np.float32]:
    shifted = values - values.max(axis=1, keepdims=True)
    result: NDArray[np.float32] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result
