"""The cache of prompts' starts: what it saves is used, what is wrong with it never matters."""

import errno
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from llamacli.prompt.cache import SUFFIX, load, prune
from tests.standins.program import PROGRAM, run_program
from tests.standins.tiny import write_model

INSTRUCTION = "sort the following lines by how they begin and say why " * 3


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "tiny.gguf")


def run(
    model: Path, *arguments: str, stdin: str = "", check: int = 0, told: str = "", **env: str
) -> dict[str, Any]:
    options = ("--json", "--temp", "0", "-n", "6", "--threads", "1")
    child = run_program(
        [*PROGRAM, "run", "-m", model, *options, *arguments],
        input=stdin,
        text=True,
        env={**os.environ, **env},
    )
    assert child.returncode == check, child.stderr
    assert told in child.stderr and bool(told) == bool(child.stderr), child.stderr
    return dict(json.loads(child.stdout)) if child.stdout else {}


def states(store: Path) -> list[Path]:
    return sorted((store / "cache").iterdir())


@pytest.mark.parametrize("name", ["auto", "sorting"])
def test_second_call_reads_only_what_is_new(model: Path, store: Path, name: str) -> None:
    first = run(model, INSTRUCTION, "--cache", name, stdin="a text")
    second = run(model, INSTRUCTION, "--cache", name, stdin="another one, longer")
    assert first["cached_tokens"] == 0
    assert second["cached_tokens"] > 40
    assert second["prompt_tokens"] - second["cached_tokens"] < 40
    plain = run(model, INSTRUCTION, stdin="another one, longer")
    assert plain["text"] == second["text"] and plain["cached_tokens"] == 0
    assert len(states(store)) == 1


def test_system_prompt_is_kept_where_nothing_is_piped(model: Path, store: Path) -> None:
    run(model, "one", "-s", INSTRUCTION, "--cache", "auto")
    again = run(model, "and another", "-s", INSTRUCTION, "--cache", "auto")
    assert again["cached_tokens"] > 40 and len(states(store)) == 1


def test_another_start_has_another_state(model: Path, store: Path) -> None:
    run(model, INSTRUCTION, "--cache", "auto", stdin="a")
    other = run(model, "x" + INSTRUCTION, "--cache", "auto", stdin="a")
    assert other["cached_tokens"] == 0 and len(states(store)) == 2


def test_a_name_follows_its_latest_start(model: Path, store: Path) -> None:
    run(model, INSTRUCTION, "--cache", "n", stdin="a")
    run(model, "x" + INSTRUCTION, "--cache", "n", stdin="a")
    assert run(model, "x" + INSTRUCTION, "--cache", "n", stdin="b")["cached_tokens"] > 40
    assert [path.name for path in states(store)] == ["name-n.kv"]


def test_another_model_is_told_and_replaced(model: Path, store: Path, tmp_path: Path) -> None:
    other = write_model(tmp_path / "other.gguf", seed=1)
    run(model, INSTRUCTION, "--cache", "n", stdin="a")
    result = run(other, INSTRUCTION, "--cache", "n", stdin="a", told="another model")
    assert result["cached_tokens"] == 0
    assert run(other, INSTRUCTION, "--cache", "n", stdin="a")["cached_tokens"] > 40


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "other"])
def test_damage_is_told_and_mended(model: Path, store: Path, damage: str) -> None:
    good = run(model, INSTRUCTION, "--cache", "n", stdin="a")
    path = states(store)[0]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    wrong = {"flip": bytes(data), "cut": bytes(data[:-9]), "empty": b"", "other": b"x" * 999}
    path.write_bytes(wrong[damage])
    result = run(model, INSTRUCTION, "--cache", "n", stdin="a", told="is not used")
    assert result["cached_tokens"] == 0 and result["text"] == good["text"]
    assert run(model, INSTRUCTION, "--cache", "n", stdin="a")["cached_tokens"] > 40


def test_a_folder_that_cannot_be_written_costs_no_answer(model: Path, store: Path) -> None:
    store.mkdir()
    (store / "cache").write_text("in the way")
    run(model, INSTRUCTION, "--cache", "auto", stdin="a", told="can't be written")


def test_a_state_that_can_not_be_read_costs_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, **_: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "stat", refuse)
    nothing: Any = None
    assert load(nothing, Path("cache") / "x", []) == "Permission denied"


def test_short_starts_are_not_worth_a_file(model: Path, store: Path) -> None:
    run(model, "hi", "-s", "x", "--cache", "auto")
    assert not (store / "cache").exists()


def test_bad_names_and_limits(model: Path) -> None:
    run(model, "hi", "--cache", "../x", check=2, told="a cache's name")
    run(model, "hi", "--cache", "x", check=2, told="MiB", LLAMACLI_CACHE_MIB="many")


def test_a_limit_of_nothing_keeps_nothing(model: Path, store: Path) -> None:
    run(model, INSTRUCTION, "--cache", "auto", stdin="a", LLAMACLI_CACHE_MIB="0")
    assert not (store / "cache").exists()


def test_the_oldest_go_first(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    folder.mkdir()
    now = time.time()
    for i in range(5):
        path = folder / f"{i}{SUFFIX}"
        path.write_bytes(bytes(100))
        os.utime(path, (now - 100 + i, now - 100 + i))
    os.utime(folder / f"0{SUFFIX}")  # used just now
    (folder / ".9.tmp").write_text("left behind")
    os.utime(folder / ".9.tmp", (now - 10_000, now - 10_000))
    (folder / ".8.tmp").write_text("being written")
    prune(folder, 250)
    assert sorted(path.name for path in folder.iterdir()) == [".8.tmp", "0.kv", "4.kv"]


def test_many_processes_at_once(model: Path, store: Path) -> None:
    """The same and other starts, written and read side by side: all answer, nothing is left."""

    def call(i: int) -> str:
        text = run(model, f"{i % 2} {INSTRUCTION}", "--cache", "auto", stdin="a")["text"]
        return str(text)

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(call, range(12)))
    assert len(set(answers[::2])) == len(set(answers[1::2])) == 1
    assert len(states(store)) == 2
