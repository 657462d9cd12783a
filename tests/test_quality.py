"""What quantization costs, as the command tells it: against files whose cost is known."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convert import Entry, ImportanceMatrix, write_importance
from llamacli.cli import main
from llamacli.errors import DoesNotFitError, OutputError
from llamacli.quality import compare, plot
from llamacli.verify import prediction
from tests.standins.checkpoint import tokenizer
from tests.standins.tiny import write_model

TEXT = "ab cd, efgh ij! " * 20


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A model, another one, and one with another vocabulary; and a text beside them."""
    folder = tmp_path_factory.mktemp("quality")
    (folder / "text.txt").write_text(TEXT)
    return (
        write_model(folder / "one.gguf"),
        write_model(folder / "other.gguf", seed=1),
        write_model(folder / "odd.gguf", tokenizer=tokenizer(700)),
    )


def run(*words: str | Path) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    return int(ended.value.code or 0)


def test_a_file_costs_nothing_against_itself(files: tuple[Path, ...]) -> None:
    (compared,) = compare(files[:1], files[0], TEXT, threads=1)
    prediction = compared.prediction
    assert (prediction.divergence, prediction.divergence_most, prediction.agreement) == (0, 0, 1)
    assert prediction.loss == prediction.reference_loss > 0
    assert compared.nbytes == files[0].stat().st_size and compared.bits == 32


def test_another_file_costs_something(files: tuple[Path, ...]) -> None:
    same, other = compare(files[:2], files[0], TEXT, threads=1)
    assert same.prediction.divergence == 0
    prediction = other.prediction
    assert 0 < prediction.divergence <= prediction.divergence_99 <= prediction.divergence_most
    assert prediction.agreement < 1 and prediction.reference_loss == same.prediction.loss


def test_divergence_is_that_of_the_logits(files: tuple[Path, ...]) -> None:
    """By the definition, in float64, from logits of the whole window at once."""
    from llamacli.verify import all_logits, open_evaluator, windows

    logits = []
    for path in (files[1], files[0]):
        with open_evaluator(path, 512, 1) as engine:
            (part,) = windows(engine.vocabulary, TEXT, 512)
            logits.append(np.concatenate([one.copy() for one in all_logits(engine, part)]))
    half = len(part) // 2
    ours, theirs = (np.exp(one[half:-1].astype(np.float64)) for one in logits)
    ours, theirs = (one / one.sum(axis=1, keepdims=True) for one in (ours, theirs))
    expected = (theirs * np.log(theirs / ours)).sum(axis=1)
    (compared,) = compare(files[1:2], files[0], TEXT, threads=1)
    assert compared.prediction.tokens == len(expected)
    assert np.isclose(compared.prediction.divergence, expected.mean(), rtol=1e-4)
    assert np.isclose(compared.prediction.divergence_99, np.quantile(expected, 0.99), rtol=1e-4)
    assert np.isclose(compared.prediction.divergence_most, expected.max(), rtol=1e-4)


def test_the_command_shows_a_table_json_and_a_picture(
    files: tuple[Path, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """And the figures where the picture fails, too: they took long."""

    def full(_: object) -> bytes:
        raise OutputError("the disk is full")

    one, other, _ = files
    settings = ("--against", one, "--text", one.parent / "text.txt", "--threads", "1")
    picture = tmp_path / "p.png"
    assert run("quality", one, other, *settings, "--plot", picture) == 0
    out, err = capfd.readouterr()
    lines = [line.split() for line in out.splitlines()]
    assert [line[0] for line in lines] == ["file", "one.gguf", "other.gguf"] and err == ""
    assert lines[1][-1] == "100.0%"
    assert picture.read_bytes().startswith(b"\x89PNG")
    beside = tmp_path / "beside"
    beside.touch()
    assert picture.stat().st_mode == beside.stat().st_mode
    assert run("quality", one, *settings, "--plot", picture) == 6
    assert "exists already" in capfd.readouterr().err
    monkeypatch.setattr("llamacli.quality.plot", full)
    assert run("quality", other, *settings, "--json", "--plot", tmp_path / "q.png") == 6
    (fields,) = json.loads(capfd.readouterr().out)
    assert (
        fields["file"] == str(other) and 0 < fields["kl_divergence"] < fields["kl_divergence_max"]
    )


def test_files_of_different_models_are_told(
    files: tuple[Path, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    one, _, odd = files
    text = one.parent / "text.txt"
    assert run("quality", odd, "--against", one, "--text", text, "--threads", "1") == 3
    assert "reads text otherwise" in capfd.readouterr().err


def test_what_was_measured_before_a_failure_is_shown(
    files: tuple[Path, ...],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    predict, calls = prediction._predict, []

    def fail(*words: Any) -> Any:
        calls.append(words)
        if len(calls) == 2:
            raise DoesNotFitError("it doesn't fit")
        return predict(*words)

    monkeypatch.setattr(prediction, "_predict", fail)
    one, other, _ = files
    text = one.parent / "text.txt"
    assert run("quality", one, other, "--against", one, "--text", text, "--threads", "1") == 5
    out, err = capfd.readouterr()
    assert [line.split()[0] for line in out.splitlines()] == ["file", "one.gguf"]
    assert "it doesn't fit" in err


def test_an_importance_matrix_is_no_model(
    files: tuple[Path, ...], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    matrix, text = tmp_path / "m.gguf", files[0].parent / "text.txt"
    write_importance(matrix, ImportanceMatrix({"a": Entry(np.ones(4, np.float32), 1.0)}))
    assert run("quality", files[0], matrix, "--against", files[0], "--text", text) == 3
    assert "an importance matrix, not a model; give it to convert" in capfd.readouterr().err


def test_a_short_text_is_told(
    files: tuple[Path, ...], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "short.txt").write_text("ab")
    one = files[0]
    assert run("quality", one, "--against", one, "--text", tmp_path / "short.txt") == 2
    assert "16 or more tell something" in capfd.readouterr().err


def test_a_picture_that_can_not_be_drawn_is_told_before_measuring(
    files: tuple[Path, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("it is measured")

    monkeypatch.setattr(prediction, "_predict", fail)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    text, one = files[0].with_name("text.txt"), files[0]
    words = ("quality", one, "--against", one, "--text", text, "--plot", tmp_path / "x.png")
    assert run(*words) == 2
    assert "--plot needs matplotlib" in capfd.readouterr().err


def test_a_name_does_not_become_a_formula(files: tuple[Path, ...], tmp_path: Path) -> None:
    """matplotlib would set what is between two dollars as mathematics, and fail on this."""
    odd = tmp_path / "a$\\x$.gguf"
    odd.write_bytes(files[1].read_bytes())
    assert plot(list(compare([odd], files[0], TEXT, threads=1))).startswith(b"\x89PNG")
