"""A good file passes, whoever made it; each way a copy can be wrong is caught, by its own row."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type

from convert import QUANTIZATIONS, ImportanceError, convert
from convert.checkpoint import Checkpoint, open_checkpoint
from convert.config import LlamaConfig
from convert.kernels import dequantize
from convert.metadata import CONFIG_KEY
from convert.tokenizer import parse_tokenizer
from llamacli.engine.model import load_vocabulary
from llamacli.gguf.contents import TENSOR_TYPES
from llamacli.verify import tokenization
from llamacli.verify.measure import QUANTIZED, limits, measure
from llamacli.verify.report import Report, verify
from llamacli.verify.rows import Row
from llamacli.verify.tokenization import TEXTS, tokenization_row
from tests.standins.checkpoint import shape_config, write_checkpoint
from tests.standins.rewritten import rewrite
from tests.standins.tiny import read_tokenizer, write_model
from tests.test_checkpoint import edit_json
from tests.test_mixtures import some_importances


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verify") / "checkpoint"
    write_checkpoint(folder, shape_config("tiny"))
    return folder


@pytest.fixture(scope="module")
def good(folder: Path) -> Callable[[str], Path]:
    """The file of each quantization, converted once."""

    def file(quant: str) -> Path:
        path = folder.parent / f"{quant}.gguf"
        if not path.exists():
            convert(folder, path, quant)
        return path

    return file


def problems(report: Report, row: str) -> str:
    """The differences of one row, all in one text."""
    return "\n".join(next(r for r in report.rows if r.name == row).problems)


def verdicts(report: Report) -> dict[str, str]:
    return {row.name: row.verdict for row in report.rows}


# Good files


@pytest.mark.parametrize("quant", QUANTIZATIONS)
def test_what_llamacli_converts_is_a_faithful_copy(
    folder: Path, tmp_path: Path, quant: str
) -> None:
    """By an importance matrix where a type needs one."""
    target = tmp_path / "out.gguf"
    try:
        convert(folder, target, quant)
    except ImportanceError:
        convert(folder, target, quant, importance=some_importances(open_checkpoint(folder)))
    report = verify(target, folder)
    assert report.failed == (), report.rows
    assert set(verdicts(report).values()) == {"passed"}


@pytest.mark.parametrize("dtype", ["F16", "F32"])
@pytest.mark.parametrize("quant", ["Q4_K_M", "BF16", "F16"])
def test_other_source_types_and_tied_embeddings(tmp_path: Path, dtype: str, quant: str) -> None:
    config = shape_config("tiny", tie_word_embeddings=True, rope_scaling=None, head_dim=None)
    write_checkpoint(tmp_path / "c", config, dtype=dtype)
    convert(tmp_path / "c", tmp_path / "out.gguf", quant)
    assert verify(tmp_path / "out.gguf", tmp_path / "c").failed == ()


@pytest.mark.parametrize(
    ("scaling", "key"),
    [
        ({"type": "linear", "factor": 2.0}, "factor"),
        ({"rope_type": "yarn", "factor": 4.0}, "factor"),
        ({"rope_type": "yarn", "factor": 4.0, "attention_factor": 1.5}, "attn_factor"),
    ],
)
def test_other_rope_scalings(tmp_path: Path, scaling: dict[str, Any], key: str) -> None:
    write_checkpoint(tmp_path / "c", shape_config("tiny", rope_scaling=scaling))
    convert(tmp_path / "c", tmp_path / "out.gguf", "Q8_0")
    assert verify(tmp_path / "out.gguf", tmp_path / "c").failed == ()
    changed = {f"llama.rope.scaling.{key}": 3.0}
    wrong = rewrite(tmp_path / "out.gguf", tmp_path / "x.gguf", keys=changed)
    assert verify(wrong, tmp_path / "c").failed[0] == "metadata"


@pytest.mark.parametrize("number", TENSOR_TYPES)
def test_values_are_those_that_the_gguf_package_gives(number: int) -> None:
    kind = TENSOR_TYPES[number]
    rows = np.random.default_rng(number).integers(0, 256, (16, 64 * kind.nbytes), np.uint8)
    with np.errstate(all="ignore"):
        expected = gguf.quants.dequantize(rows, Type(number)).reshape(-1)
    values = dequantize(Type(number), bytearray(rows.tobytes()))
    assert np.allclose(values, expected, rtol=1e-6, atol=0, equal_nan=True)


@pytest.mark.parametrize("importances", [False, True])
@pytest.mark.parametrize("number", TENSOR_TYPES)
def test_zeros_and_other_values_are_beyond_the_limits(number: int, importances: bool) -> None:
    kind = TENSOR_TYPES[number]
    bounds = limits(kind, "BF16", importances)
    values, other = np.random.default_rng(1).standard_normal((2, 8, 1024), dtype=np.float32)
    for copy in (np.zeros_like(values), other, other * np.float32(0.7)):
        errors = measure(values, copy, kind.block, floor=bounds.floor)
        assert errors.relative(bounds.floor) > bounds.relative
        assert abs(errors.scale - 1) > bounds.scale_of(errors.values)


def test_there_are_limits_for_every_quantized_type() -> None:
    assert set(QUANTIZED) == {kind.name for kind in TENSOR_TYPES.values() if kind.block > 1}


# Metadata, vocabulary, template


def renamed(tokens: list[str]) -> list[str]:
    return [*tokens[:300], tokens[301], tokens[300], *tokens[302:]]


BROKEN_KEYS = {
    "context": ({"llama.context_length": 4096}, "metadata", "131072"),
    "epsilon": ({"llama.attention.layer_norm_rms_epsilon": 1e-6}, "metadata", "1e-05"),
    "theta": ({"llama.rope.freq_base": 10000.0}, "metadata", "500000.0"),
    "theta left out": ({"llama.rope.freq_base": None}, "metadata", "missing, which means 10000.0"),
    "stored config": ({CONFIG_KEY: '{"hidden_size": 8}'}, "metadata", "hidden_size 8"),
    "sampling": ({"general.sampling.temp": 0.1}, "metadata", "0.6"),
    "theta's frequencies": ({"llama.rope.freq_base": 10000.0}, "rope", "pair 1 is"),
    "tokens swapped": ({"tokenizer.ggml.tokens": renamed}, "vocabulary", "token 300 is"),
    "a token's type": (
        {"tokenizer.ggml.token_type": lambda kinds: [*kinds[:-1], 4]},
        "vocabulary",
        "is user_defined; the checkpoint makes it control",
    ),
    "merge dropped": (
        {"tokenizer.ggml.merges": lambda merges: merges[:7] + merges[8:]},
        "merges",
        "merge 7",
    ),
    "merges' order": (
        {"tokenizer.ggml.merges": lambda merges: [merges[1], merges[0], *merges[2:]]},
        "merges",
        "their order differs from merge 0 on",
    ),
    "another end token": ({"tokenizer.ggml.eos_token_id": 769}, "special tokens", "<|eot_id|>"),
    "no end token": ({"tokenizer.ggml.eos_token_id": None}, "special tokens", "is missing"),
    "no start": ({"tokenizer.ggml.add_bos_token": False}, "special tokens", "expected True"),
    "another start": ({"tokenizer.ggml.bos_token_id": 3}, "special tokens", "<|begin_of_text|>"),
    "letters swapped": (
        {"tokenizer.ggml.tokens": lambda t: [*t[:64], t[65], t[64], *t[66:]]},
        "tokenization",
        "expected",
    ),
    "template": (
        {"tokenizer.chat_template": lambda text: text.replace("| trim", "")},
        "template",
        "one question: at character",
    ),
    "no template": ({"tokenizer.chat_template": None}, "template", "missing"),
    "another template for tools": (
        {"tokenizer.chat_template.tool_use": "{{ tools }}"},
        "template",
        "a tool: at character",
    ),
    "broken template": ({"tokenizer.chat_template": "{% if %}"}, "template", "can't be rendered"),
}


@pytest.mark.parametrize("name", BROKEN_KEYS)
def test_changed_metadata_is_caught(
    folder: Path, good: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    keys, row, words = BROKEN_KEYS[name]
    report = verify(rewrite(good("Q8_0"), tmp_path / "broken.gguf", keys=keys), folder)
    assert row in report.failed
    assert words in problems(report, row)
    assert "tensors" not in report.failed


def test_a_template_that_renders_alike_passes(
    folder: Path, good: Callable[[str], Path], tmp_path: Path
) -> None:
    keys = {"tokenizer.chat_template": lambda text: "{# another text #}" + text}
    report = verify(rewrite(good("Q8_0"), tmp_path / "out.gguf", keys=keys), folder)
    assert report.failed == ()
    assert any("conversations are alike" in row.summary for row in report.rows)


def test_an_end_token_that_only_the_checkpoint_has_is_named(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "c", shape_config("tiny"))
    convert(tmp_path / "c", tmp_path / "out.gguf", "Q8_0")
    edit_json(tmp_path / "c" / "generation_config.json", lambda c: c["eos_token_id"].append(5))
    report = verify(tmp_path / "out.gguf", tmp_path / "c")
    assert report.failed == ("metadata", "special tokens")
    assert "token 5, '\u0105', doesn't end an answer" in problems(report, "special tokens")


def without_tokenizers(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        tokenization.importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "tokenizers" else find(name, *rest),
    )


def test_tokenization_of_unknown_vocabularies_is_skipped_without_the_library(
    folder: Path, good: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    without_tokenizers(monkeypatch)
    report = verify(good("Q8_0"), folder)
    assert report.failed == () and verdicts(report)["tokenization"] == "skipped"


def test_metas_vocabulary_is_compared_with_recorded_ids(
    llama3_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = read_tokenizer(llama3_files / "tokenizer.json")
    checkpoint = Checkpoint(
        name="Llama", folder=llama3_files, config=LlamaConfig.from_dict(shape_config("8b")),
        tokenizer=parse_tokenizer(raw), tokenizer_config={}, generation_config={},
        chat_templates={}, weights={},
    )  # fmt: skip

    def row(name: str) -> Row:
        model = write_model(tmp_path / name, tokenizer=raw, weights=False)
        return tokenization_row(checkpoint, load_vocabulary(model))

    without_tokenizers(monkeypatch)
    line = row("good.gguf")
    assert (line.verdict, line.summary.split()[-1]) == ("passed", "tokenizers")
    letters = raw["model"]["vocab"]
    letters["a"], letters["b"] = letters["b"], letters["a"]
    assert row("wrong.gguf").verdict == "failed"


def test_recorded_ids_are_the_librarys(llama3_files: Path) -> None:
    recorded = json.loads(tokenization.RECORDED.read_text())
    library = tokenization.reference(llama3_files / "tokenizer.json")
    assert library is not None
    assert recorded["ids"] == [list(library(text)) for text in TEXTS]
