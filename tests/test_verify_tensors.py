"""Tensors that aren't the checkpoint's are caught and named; the command tells and exits with 3."""

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type

from bench.checkpoint import shape_config, write_checkpoint
from convert import convert
from convert.checkpoint import open_checkpoint
from convert.kernels import quantize
from convert.tensors import permute_heads
from llamacli.verify.report import Report, verify
from llamacli.verify.tensors import read_rows
from tests.rewritten import Tensors, rewrite

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
        return read_rows(spec, stored, 0, spec.rows).reshape(spec.shape)

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


# Text, and the command


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(
        "llamacli turns a checkpoint into a GGUF file and runs it on your machine.\n" * 9
    )
    return path


def test_a_text_is_predicted_as_by_the_checkpoint(text: Path, tmp_path: Path) -> None:
    convert(DEMO, tmp_path / "q4.gguf", "Q4_K_M")
    convert(DEMO, tmp_path / "bf16.gguf", "BF16")
    found = row(verify(tmp_path / "q4.gguf", DEMO, text=text.read_text()), "text")
    assert found.verdict == "passed"
    with_reference = verify(
        tmp_path / "q4.gguf", DEMO, text=text.read_text(), reference=tmp_path / "bf16.gguf"
    )
    assert row(with_reference, "text").measures == found.measures
    itself = row(verify(tmp_path / "bf16.gguf", DEMO, text=text.read_text()), "text").measures
    assert itself["kl_divergence"] == pytest.approx(0, abs=1e-6) and itself["top1_agreement"] == 1
    assert itself["perplexity"] == itself["reference_perplexity"]
    assert itself["reference_perplexity"] == found.measures["reference_perplexity"]
    assert itself["perplexity"] == pytest.approx(perplexity(tmp_path / "bf16.gguf", text), rel=0.01)


def row(report: Report, name: str) -> Any:
    return next(row for row in report.rows if row.name == name)


def perplexity(path: Path, text: Path) -> float:
    """The same by decoding token by token, through the engine's own logits."""
    from llamacli.engine import Engine

    with Engine(path) as engine:
        tokens = [engine.vocabulary.bos, *engine.vocabulary.tokenize(text.read_text())]
        half, losses = len(tokens) // 2, []
        engine.prefill(tokens[:half])
        for token in tokens[half:]:
            engine.decode(token)
            logits = engine.logits().astype(np.float64)
            position = len(engine.tokens)
            if position < len(tokens):
                losses.append(np.logaddexp.reduce(logits) - logits[tokens[position]])
    return float(np.exp(np.mean(losses)))


def test_a_broken_layer_shows_in_the_text(text: Path, tmp_path: Path) -> None:
    convert(DEMO, tmp_path / "q4.gguf", "Q4_K_M")

    def change(tensors: Tensors) -> None:
        for name in ("blk.2.ffn_down.weight", "blk.2.attn_output.weight"):
            tensors[name][0][:] = 0

    path = rewrite(tmp_path / "q4.gguf", tmp_path / "broken.gguf", tensors=change)
    report = verify(path, DEMO, text=text.read_text())
    assert report.failed == ("tensors", "text") and "divergence" in problems(report, "text")


def llamacli(*arguments: str | Path, check: int = 0) -> subprocess.CompletedProcess[str]:
    child = subprocess.run(
        [sys.executable, "-m", "llamacli", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert child.returncode == check, child.stderr
    return child


def test_the_command_prints_a_line_a_row_and_exits_with_3(folder: Path, tmp_path: Path) -> None:
    good = llamacli("verify", folder.parent / "Q8_0.gguf", "--against", folder)
    assert [line.split("  ")[0] for line in good.stdout.splitlines()] == [
        "file", "metadata", "rope", "vocabulary", "merges", "special tokens", "tokenization",
        "template", "tensors",
    ]  # fmt: skip
    assert good.stderr == "" and "\x1b" not in good.stdout
    path = broken(folder, "Q8_0", zeroed)
    bad = llamacli("verify", path, "--against", folder, check=3)
    assert f"tensors: {DOWN}: all its values are zero" in bad.stdout
    assert bad.stderr == f"llamacli: {path} is not a faithful copy of {folder}: tensors\n"
    found = json.loads(llamacli("verify", path, "--against", folder, "--json", check=3).stdout)
    rows = {row["name"]: row for row in found["rows"]}
    assert found["faithful"] is False and rows["tensors"]["verdict"] == "failed"
    assert rows["tensors"]["types"][0].keys() >= {"type", "relative_error", "relative_limit"}


def test_a_table_on_a_terminal(folder: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "llamacli", "verify", str(folder.parent / "Q8_0.gguf")]
    child = subprocess.Popen(
        [*command, "--against", str(folder)], stdout=theirs, stderr=subprocess.PIPE,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    while True:
        try:
            shown += os.read(ours, 65536)
        except OSError:
            break
    os.close(ours)
    assert child.wait() == 0 and child.communicate()[1] == b""
    assert "verdict" in shown.decode() and "\x1b[32mpassed" in shown.decode()


def test_what_is_not_there_is_told(folder: Path, tmp_path: Path) -> None:
    file = folder.parent / "Q8_0.gguf"
    assert "there is no folder" in llamacli("verify", file, "--against", "x", check=4).stderr
    assert "x.gguf" in llamacli("verify", "x.gguf", "--against", folder, check=4).stderr
    (tmp_path / "text").write_text("short")
    few = llamacli("verify", file, "--against", folder, "--text", tmp_path / "text", check=2)
    assert "16 or more" in few.stderr
    both = llamacli("verify", file, "--against", folder, "--reference", file, check=2)
    assert "--reference goes with --text" in both.stderr
