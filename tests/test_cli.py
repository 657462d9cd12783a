"""The command line as a user meets it: stdout, stderr and exit codes of the real program."""

import io
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from convert import convert
from llamacli import __version__, cli
from llamacli.errors import LlamacliError
from tests.standins.checkpoint import shape_config, write_checkpoint
from tests.standins.program import PROGRAM, run_program
from tests.standins.waiting import PATIENCE
from tests.systems import needs_linux, needs_shell
from tests.terminal import on_terminal

Make = Callable[..., Path]


def llamacli(
    *arguments: str | Path, stdin: str = "", check: int = 0
) -> subprocess.CompletedProcess[str]:
    """Run the program with pipes on all sides and expect that exit code."""
    result = run_program([*PROGRAM, *arguments], input=stdin, text=True)
    assert result.returncode == check, result.stderr
    return result


def one_line(result: subprocess.CompletedProcess[str]) -> str:
    """The single line on stderr that an error is told in; stdout is empty."""
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("llamacli: ")
    return lines[0]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with random weights: its answers are noise, but always the same noise."""
    folder = tmp_path_factory.mktemp("model")
    config = shape_config("tiny", max_position_embeddings=512)
    write_checkpoint(folder / "checkpoint", config)
    convert(folder / "checkpoint", folder / "noise-Q8_0.gguf", "Q8_0")
    return folder / "noise-Q8_0.gguf"


def test_version_names_all_three() -> None:
    lines = llamacli("--version").stdout.splitlines()
    assert lines[0] == f"llamacli {__version__}"
    assert [line.split()[0] for line in lines[1:]] == ["llama-cpp-python", "llama.cpp"]


def imported_by(*arguments: str | Path) -> tuple[str, set[str]]:
    """What a call prints, and the modules that it has imported at its end."""
    given = list(map(str, arguments))
    script = f"import sys, llamacli.cli as c\ntry: c.main({given})\nexcept SystemExit: pass\n"
    script += "print(*sorted(sys.modules), file=sys.stderr)"
    child = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    return child.stdout, set(child.stderr.splitlines()[-1].split())


def test_help_imports_nothing_heavy() -> None:
    """What keeps `--help` fast; how fast it is, bench/ tells."""
    told, modules = imported_by("--help")
    assert "convert" in told and "Exit codes" in told
    heavy = {"llama_cpp", "gguf", "numpy", "huggingface_hub", "rich", "jinja2", "prompt_toolkit"}
    assert not heavy & modules


def test_a_small_model_answers_without_what_others_need(model: Path) -> None:
    """A model that is loaded before numpy is imported, and an answer that has no shape."""
    told, modules = imported_by(
        "run", "-m", model, "-n", "2", "--threads", "1", "--no-server", "hi"
    )
    assert told.endswith("\n") and "llama_cpp.llama_cpp" in modules
    assert not {"numpy", "gguf", "llguidance", "rich", "logging", "concurrent.futures"} & modules
    assert not [name for name in modules if name.startswith(("llamacli.chat.", "llamacli.tools."))]


def test_show_reads_a_file_without_what_writes_one(model: Path) -> None:
    told, modules = imported_by("show", model, "--json")
    assert told.startswith("{") and not {"convert.header", "convert.kernels"} & modules


def test_convert_prints_the_path_alone(checkpoint: Make, tmp_path: Path) -> None:
    result = llamacli("convert", checkpoint(), "-o", tmp_path / "out.gguf")
    assert result.stdout == f"{tmp_path / 'out.gguf'}\n"
    assert "bits per weight" in result.stderr and "Q4_K" in result.stderr
    assert "\x1b" not in result.stderr


def test_convert_takes_as_many_threads_as_a_container_leaves(
    checkpoint: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not one for each of the machine's processors."""
    took: list[Any] = []

    def taken(*_: Any, threads: int | None, **__: Any) -> None:
        took.append(threads)
        raise LlamacliError("enough")

    monkeypatch.setattr("llamacli.machine.usable_processors", lambda: 3)
    monkeypatch.setattr("convert.write_gguf", taken)
    for words, threads in (([], 3), (["--threads", "2"], 2)):
        with pytest.raises(SystemExit):
            cli.main(["convert", str(checkpoint()), "-o", str(tmp_path / "m.gguf"), *words])
        assert took.pop() == threads


def test_warnings_for_programmers_are_no_lines_of_its_own() -> None:
    told = "import warnings, llamacli.cli as c; c.main = lambda: warnings.warn('x'); c.start()"
    for words, lines in (((), 0), (("--debug",), 1)):
        command = [sys.executable, "-c", told, *words]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.stderr.count("UserWarning: x") == lines


def test_convert_into_the_store(checkpoint: Make, store: Path) -> None:
    result = llamacli("convert", checkpoint(), "--q8")
    assert result.stdout == f"{store / 'checkpoint-Q8_0.gguf'}\n"
    assert (store / "checkpoint-Q8_0.gguf").read_bytes()[:4] == b"GGUF"


def test_existing_target_needs_force(checkpoint: Make, tmp_path: Path) -> None:
    folder, target = checkpoint(), tmp_path / "out.gguf"
    target.write_text("mine")
    assert "--force" in one_line(llamacli("convert", folder, "-o", target, check=6))
    assert target.read_text() == "mine"
    llamacli("convert", folder, "-o", target, "--force", "--quant", "q6_k")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["convert", "nowhere"], 4, "nowhere"),
        (["convert", "{folder}", "--quant", "Q3"], 2, "choose one of F32"),
        (["convert", "{folder}", "--q4", "--q8"], 2, "exclude each other"),
        (["convert"], 2, "'source'"),
        (["convert", "{empty}"], 3, "config.json"),
        (["convert", ""], 2, "is empty"),
        (["convert", "{folder}", "--imatrix", "{empty}/none"], 4, "there is no file"),
        (["convert", "{folder}", "--tensor-type", "ffn_dwon=Q8_0"], 3, "'ffn_dwon' is in the name"),
        (["convert", "{model}"], 3, "converted already"),
        (["batch", "-m", "{model}", "--template", "sum it up"], 2, "no {text}"),
        (["serve", "-m", "{model}", "--timeout", "0"], 2, "--timeout is 0"),
        (["serve", "-m", "{model}", "--cors", "example"], 2, "give an origin"),
        (["worker", "--device", "tpu"], 2, "one of auto, cpu"),
        (["run", "hi", "-m", "{model}", "--adapter", ""], 2, "is empty"),
        (["run", "hi", "-m", "{model}", "--seed", "-1"], 2, "give 0 to 4294967294"),
        (["run", "hi", "-m", "nothing"], 4, "no model nothing"),
        (["run", "hi", "-m", "{empty}/no.gguf"], 4, "no.gguf"),
        (["run", "hi", "-m", "{text}"], 3, "not a GGUF file"),
        (["run", "-m", "{model}"], 2, "no prompt"),
        (["run", "hi", "-m", "{model}", "--temp", "-1"], 2, "temperature"),
        (["run", "hi", "-m", "{model}", "--top-p", "7"], 2, "top-p"),
        (["run", "hi", "-m", "{model}", "-n", "0"], 2, "at most 0"),
        (["run", "hi", "-m", "{model}", "-c", "4096"], 2, "512"),
        (["run", "word " * 2000, "-m", "{model}"], 5, "512"),
        (["frobnicate"], 2, "frobnicate"),
        (["run", "--frobnicate"], 2, "frobnicate"),
        (["run", "hi", "-m"], 2, "see `llamacli run --help`"),
        (["run", "llama3", "why is the sky blue?"], 2, "a model is named by -m"),
        (["serve", "{model}"], 2, "a model is named by -m"),
    ],
)
def test_errors_are_one_line_and_a_code(
    arguments: list[str], code: int, words: str, checkpoint: Make, tmp_path: Path, model: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.gguf").write_text("this is not a model")
    places = {
        "folder": checkpoint(),
        "empty": tmp_path / "empty",
        "text": tmp_path / "text.gguf",
        "model": model,
    }
    filled = [argument.format(**places) for argument in arguments]
    assert words in one_line(llamacli(*filled, check=code))


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    result = llamacli("convert", tmp_path, "--debug", check=3)
    assert "Traceback" in result.stderr and "CheckpointError" in result.stderr


def test_greedy_answers_repeat(model: Path) -> None:
    answers = {llamacli("run", "hi", "-m", model, "--temp", "0", "-n", "20").stdout for _ in "ab"}
    assert len(answers) == 1 and answers.pop().endswith("\n")


def test_a_seed_repeats_and_another_differs(model: Path) -> None:
    def answer(seed: str) -> str:
        return llamacli("run", "hi", "-m", model, "--seed", seed, "-n", "20", "--temp", "2").stdout

    assert answer("1") == answer("1") != answer("2")


def test_prompt_from_stdin_equals_argument(model: Path) -> None:
    options = ("-m", model, "--temp", "0", "-n", "12")
    by_argument = llamacli("run", "some words", *options).stdout
    assert llamacli("run", *options, stdin="some words").stdout == by_argument


def test_stdin_that_is_not_utf8_is_told(model: Path) -> None:
    child = subprocess.run(
        [sys.executable, "-m", "llamacli", "run", "-m", model],
        input=b"abc\xff",
        capture_output=True,
    )
    assert child.returncode == 2 and b"byte 3" in child.stderr


@needs_shell
def test_closed_pipe_ends_quietly(model: Path) -> None:
    command = f"{sys.executable} -m llamacli run hi -m {model} -n 400 --temp 3 | head -c 3"
    child = subprocess.run(["bash", "-c", command], capture_output=True, timeout=PATIENCE)
    assert len(child.stdout) == 3 and child.stderr == b""


def test_an_error_that_nobody_reads_still_has_its_exit_code() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    run = [sys.executable, "-m", "llamacli", "run", "hi", "-m", "nowhere"]
    assert subprocess.run(run, stderr=write_end, stdout=subprocess.DEVNULL).returncode == 4
    os.close(write_end)


@needs_linux
def test_full_disk_is_told(model: Path) -> None:
    with Path("/dev/full").open("w") as full:
        child = subprocess.run(
            [sys.executable, "-m", "llamacli", "run", "hi", "-m", model, "-n", "5"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert child.returncode == 6 and len(child.stderr.splitlines()) == 1


def test_progress_bar_on_a_terminal_only(checkpoint: Make, tmp_path: Path) -> None:
    """stderr is a terminal here: the bar moves there, the path still goes to stdout alone."""
    command = [*PROGRAM, "convert", checkpoint(), "-o", tmp_path / "o.gguf"]
    shown, child = on_terminal(command, stdout=subprocess.PIPE, NO_COLOR="1", COLUMNS="100")
    assert child.stdout is not None
    assert child.stdout.read().decode() == f"{tmp_path / 'o.gguf'}\n"
    assert child.returncode == 0
    assert b"bits per weight" in shown
    assert not re.search(rb"\x1b\[3[0-7]m", shown)  # NO_COLOR


def test_help_where_the_locale_lacks_its_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.TextIOWrapper(io.BytesIO(), "latin-1")
    monkeypatch.setattr(sys, "stdout", out)
    del cli.app.registered_commands[:]
    with pytest.raises(SystemExit) as left:
        cli.main(["run", "--help"])
    assert left.value.code == 0 and "start, text…, end" in out.buffer.getvalue().decode()
