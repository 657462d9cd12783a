"""llamacli verify and convert --verify as a user meets them, and the measures over a text."""

import importlib
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convert import convert
from llamacli.cli import main
from llamacli.engine.engine import Engine
from llamacli.errors import UsageError
from llamacli.verify.report import Report, verify
from tests.standins.checkpoint import shape_config, write_checkpoint
from tests.standins.program import PROGRAM, run_program
from tests.standins.rewritten import Tensors, rewrite
from tests.terminal import on_terminal

DEMO = Path(__file__).parents[1] / "llamacli" / "demo"
DOWN = "blk.1.ffn_down.weight"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verify") / "checkpoint"
    write_checkpoint(folder, shape_config("tiny"))
    convert(folder, folder.parent / "good.gguf", "Q8_0")

    def zeroed(tensors: Tensors) -> None:
        tensors[DOWN][0][:] = 0

    rewrite(folder.parent / "good.gguf", folder.parent / "bad.gguf", tensors=zeroed)
    return folder


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
    line = row(verify(tmp_path / "q4.gguf", DEMO, text=text.read_text()), "text")
    assert line.verdict == "passed"
    with_reference = verify(
        tmp_path / "q4.gguf", DEMO, text=text.read_text(), reference=tmp_path / "bf16.gguf"
    )
    assert row(with_reference, "text").measures == line.measures
    itself = row(verify(tmp_path / "bf16.gguf", DEMO, text=text.read_text()), "text").measures
    assert itself["kl_divergence"] == pytest.approx(0, abs=1e-6) and itself["top1_agreement"] == 1
    assert itself["perplexity"] == itself["reference_perplexity"]
    assert itself["reference_perplexity"] == line.measures["reference_perplexity"]
    assert itself["perplexity"] == pytest.approx(perplexity(tmp_path / "bf16.gguf", text), rel=0.01)


def row(report: Report, name: str) -> Any:
    return next(row for row in report.rows if row.name == name)


def perplexity(path: Path, text: Path) -> float:
    """The same by decoding token by token, through the engine's own logits."""
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
    assert report.failed == ("tensors", "text") and "divergence" in row(report, "text").problems[0]


def llamacli(*arguments: str | Path, check: int = 0) -> subprocess.CompletedProcess[str]:
    child = run_program([*PROGRAM, *arguments], text=True)
    assert child.returncode == check, child.stderr
    return child


def test_the_command_prints_a_line_a_row_and_exits_with_3(folder: Path, tmp_path: Path) -> None:
    good = llamacli("verify", folder.parent / "good.gguf", "--against", folder)
    assert [line.split("  ")[0] for line in good.stdout.splitlines()] == [
        "file", "metadata", "rope", "vocabulary", "merges", "special tokens", "tokenization",
        "template", "tensors",
    ]  # fmt: skip
    assert good.stderr == "" and "\x1b" not in good.stdout
    path = folder.parent / "bad.gguf"
    bad = llamacli("verify", path, "--against", folder, check=3)
    assert f"tensors: {DOWN}: all its values are zero" in bad.stdout
    assert bad.stderr == (
        f"llamacli: {path}, which is left as it is, is not a faithful copy of {folder}: tensors\n"
    )
    parsed = json.loads(llamacli("verify", path, "--against", folder, "--json", check=3).stdout)
    rows = {row["name"]: row for row in parsed["rows"]}
    assert parsed["faithful"] is False and rows["tensors"]["verdict"] == "failed"
    assert rows["tensors"]["types"][0].keys() >= {"type", "relative_error", "relative_limit"}


def test_a_table_on_a_terminal(folder: Path) -> None:
    command = [*PROGRAM, "verify", folder.parent / "good.gguf", "--against", folder]
    shown, child = on_terminal(command, stderr=subprocess.PIPE, COLUMNS="100")
    assert child.returncode == 0 and child.stderr is not None and child.stderr.read() == b""
    assert "verdict" in shown.decode() and "\x1b[32mpassed" in shown.decode()


def test_what_is_not_there_is_told(folder: Path, tmp_path: Path) -> None:
    file = folder.parent / "good.gguf"
    assert "there is no folder" in llamacli("verify", file, "--against", "x", check=4).stderr
    assert "is not a folder" in llamacli("verify", file, "--against", file, check=3).stderr
    assert "x.gguf" in llamacli("verify", "x.gguf", "--against", folder, check=4).stderr
    (tmp_path / "text").write_text("short")
    few = llamacli("verify", file, "--against", folder, "--text", tmp_path / "text", check=2)
    assert "16 or more" in few.stderr
    both = llamacli("verify", file, "--against", folder, "--reference", file, check=2)
    assert "--reference goes with --text" in both.stderr


def test_a_text_that_is_too_short_is_told_before_all_is_compared(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("it is compared")

    monkeypatch.setattr("llamacli.verify.report.tensors_row", fail)
    with pytest.raises(UsageError, match="16 or more"):
        verify(folder.parent / "good.gguf", folder, text="short")


def test_convert_verifies_what_it_wrote(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "out.gguf"
    done = llamacli("convert", folder, "-o", path, "--q8", "--verify")
    assert done.stdout == f"{path}\n"
    assert "tensors         passed" in done.stderr


def test_every_end_token_of_the_checkpoint_is_kept(tmp_path: Path) -> None:
    """Also one that GGUF has no key for."""
    write_checkpoint(tmp_path / "c", shape_config("tiny", eos_token_id=[777, 5]))
    path = tmp_path / "out.gguf"
    done = llamacli("convert", tmp_path / "c", "-o", path, "--q8", "--verify")
    assert done.stdout == f"{path}\n"


def test_convert_keeps_a_file_that_it_cannot_vouch_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A converter that forgets an end token: the file stays, but its path isn't printed."""
    importlib.import_module("llamacli.verify.vocabulary")  # which knows the end tokens itself
    monkeypatch.setattr("convert.metadata.end_tokens", lambda _: frozenset())
    write_checkpoint(tmp_path / "c", shape_config("tiny", eos_token_id=[777, 5]))
    path = tmp_path / "out.gguf"
    with pytest.raises(SystemExit) as left:
        main(["convert", str(tmp_path / "c"), "-o", str(path), "--q8", "--verify"])
    out, err = capsys.readouterr()
    assert left.value.code == 3 and out == "" and path.exists()
    assert "token 5, " in err
    last = err.splitlines()[-1]
    assert last.startswith(f"llamacli: {path}, which is left as it is, is not a faithful copy")
    assert last.endswith(": special tokens")
