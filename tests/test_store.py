"""The model store: names to files, list, path, rm, last use, and many processes at once."""

import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import TextIO

import pytest

from llamacli.errors import LlamacliError, NotFoundError, OutputError, UsageError
from llamacli.models import registry
from llamacli.models.listing import inventory
from llamacli.models.names import complete_models, find_model, find_stored, only_model
from llamacli.models.store import (
    folder_name,
    last_used,
    mark_used,
    remove_model,
    split_name,
    stored_models,
    target_path,
)
from llamacli.terminal import Write, asked
from tests.standins.program import PROGRAM, run_program
from tests.standins.tiny import CONTEXT, write_model
from tests.standins.waiting import PATIENCE
from tests.terminal import Terminal

Put = Callable[..., None]


def llamacli(*arguments: str, check: int = 0) -> subprocess.CompletedProcess[bytes]:
    child = run_program([*PROGRAM, *arguments])
    assert child.returncode == check, child.stderr.decode(errors="replace")
    return child


def error(*arguments: str, check: int) -> str:
    child = llamacli(*arguments, check=check)
    assert child.stdout == b"" and child.stderr.count(b"\n") == 1
    return child.stderr.decode()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@pytest.fixture
def put(store: Path) -> Put:
    """Put files of these names into the store, which aren't models."""
    store.mkdir()

    def put(*names: str) -> None:
        for name in names:
            (store / f"{name}.gguf").write_bytes(b"not a model")

    return put


# Names


@pytest.mark.parametrize(
    ("stem", "expected"),
    [
        ("Llama-3.2-1B-Instruct-Q4_K_M", ("Llama-3.2-1B-Instruct", "Q4_K_M")),
        ("llama-3.2-1b-instruct.iq4_xs", ("llama-3.2-1b-instruct", "iq4_xs")),
        ("a-Q8_0", ("a", "Q8_0")),
        ("a-b-BF16", ("a-b", "BF16")),
        ("llama-3.1-8b", ("llama-3.1-8b", "")),
        ("-Q8_0", ("-Q8_0", "")),
    ],
)
def test_a_name_and_its_quantization(stem: str, expected: tuple[str, str]) -> None:
    assert split_name(stem) == expected


SHORT = [
    "llama-3.1-8b",
    "Llama-3.1-8B",
    "llama-3.1-8b:q4_k_m",
    "llama-3.1-8b-Q4_K_M",
    "meta-llama/Meta-Llama-3.1-8B-Instruct",
]
OWN = [
    "Meta-Llama-3.1-8B-Instruct",
    "Meta-Llama-3.1-8B-Instruct-Q4_K_M",
    "meta-llama-3.1-8b-instruct-q4_k_m.gguf",
]


@pytest.mark.parametrize(
    ("stem", "names"),
    [
        ("Meta-Llama-3.1-8B-Instruct-Q4_K_M", [*SHORT, *OWN]),
        ("Llama-3.1-8B-Instruct-Q4_K_M", SHORT),
        ("llama-3.1-8b-Q4_K_M", SHORT),
    ],
)
def test_all_names_of_a_model_find_its_file(
    stem: str, names: list[str], put: Put, store: Path
) -> None:
    put(stem, "Llama-3.2-1B-Instruct-Q4_K_M", "Meta-Llama-3.1-8B-Q4_K_M")
    for name in names:
        assert find_model(name) == store / f"{stem}.gguf"


def test_several_quantizations_want_a_choice(put: Put, store: Path) -> None:
    put("Llama-3.2-1B-Instruct-Q4_K_M", "Llama-3.2-1B-Instruct-Q8_0")
    with pytest.raises(UsageError, match=r"Q4_K_M, Llama-3\.2-1B-Instruct-Q8_0"):
        find_model("llama-3.2-1b")
    assert find_model("llama-3.2-1b:Q8_0") == store / "Llama-3.2-1B-Instruct-Q8_0.gguf"


@pytest.mark.parametrize(
    "name",
    ["someone/Tune-GGUF:Q4_K_M", "hf.co/someone/Tune-GGUF:Q4_K_M", "https://hf.co/someone/Tune"],
)
def test_an_id_on_the_hub_finds_the_file_that_is_called_so(
    put: Put, store: Path, name: str
) -> None:
    put("Tune-Q4_K_M")
    assert find_model(name) == store / "Tune-Q4_K_M.gguf"


def test_what_is_on_the_hub_is_told_how_to_get(put: Put) -> None:
    put("Tune-Q4_K_M")
    with pytest.raises(NotFoundError) as told:
        find_model("https://hf.co/someone/Other-GGUF:Q8_0")
    assert "`llamacli convert someone/Other-GGUF` gets a checkpoint" in str(told.value)
    assert "`llamacli pull someone/Other-GGUF:Q8_0` a GGUF file" in str(told.value)


@pytest.mark.parametrize("name", ["./mine", "../mine", "/no/mine", "~/mine", "no/where/mine.gguf"])
def test_a_path_to_nothing_is_no_name_in_the_store(put: Put, name: str) -> None:
    put("mine-Q8_0")
    with pytest.raises(NotFoundError, match=f"there is no file {re.escape(name)}$"):
        find_model(name)


def test_a_stored_model_goes_before_a_folder_of_its_name(
    put: Put, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put("checkpoint-Q4_K_M")
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "another").mkdir()
    monkeypatch.chdir(tmp_path)
    assert find_model("checkpoint") == store / "checkpoint-Q4_K_M.gguf"
    with pytest.raises(UsageError, match="llamacli convert another"):
        find_model("another")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("llama-3.1-8b", "`llamacli convert llama-3.1-8b` gets it"),
        ("Llama-3.1-8B:q8_0", "`llamacli convert llama-3.1-8b --quant Q8_0` gets it"),
        ("lama-3.1-8b", "did you mean llama-3.1-8b"),
        ("lama-3.1-8b", "(`llamacli convert llama-3.1-8b` gets it)"),
        ("miin", "did you mean mine?"),
        ("dmeo", "did you mean demo?"),
        ("someone/Theirs:Q4_K_M", "`llamacli pull someone/Theirs:Q4_K_M`"),
        ("xyzzy", "the store has mine-Q8_0"),
        ("xyzzy", "`-m demo`"),
        ("./x/y.gguf", "no file ./x/y.gguf"),
    ],
)
def test_a_name_that_is_not_there_is_met_with_what_to_do(name: str, words: str, put: Put) -> None:
    put("mine-Q8_0")
    with pytest.raises(NotFoundError) as caught:
        find_model(name)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "name", ["", "  ", "x" * 5000, "x/" * 3000, "~nobody-of-that-name/x", "a\0b"]
)
def test_names_that_no_file_can_have(name: str, put: Put) -> None:
    with pytest.raises(LlamacliError):
        find_model(name)
    with pytest.raises(LlamacliError):
        find_stored(name)


def test_without_a_name_the_only_model_is_taken(put: Put, store: Path) -> None:
    with pytest.raises(NotFoundError, match=r"-m demo.*llamacli convert"):
        only_model()
    put("demo-Q4_K_M")
    assert only_model() == store / "demo-Q4_K_M.gguf"
    put("mine-Q8_0")
    assert only_model() == store / "mine-Q8_0.gguf"
    put("other-Q8_0")
    with pytest.raises(UsageError, match=r"models\.toml: mine-Q8_0, other-Q8_0"):
        only_model()


def test_nothing_configured_as_a_new_user_meets_it(tiny: Path, store: Path) -> None:
    for command in (["run", "hi"], ["chat"]):
        told = error(*command, check=4)
        assert "-m demo" in told and "llamacli convert smollm2-1.7b" in told
    store.mkdir()
    (store / "tiny-F32.gguf").symlink_to(tiny)
    assert llamacli("run", "hi", "-n", "1").stdout


def test_completion_offers_files_and_short_names(
    put: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put("Llama-3.2-1B-Instruct-Q4_K_M", "mine")
    assert complete_models("") == ["demo", "Llama-3.2-1B-Instruct-Q4_K_M", "mine", "llama-3.2-1b"]
    assert complete_models("ll") == ["llama-3.2-1b"]
    (tmp_path / "broken.toml").write_text("[")
    monkeypatch.setenv("LLAMACLI_CONFIG", str(tmp_path / "broken.toml"))
    assert complete_models("m") == ["mine"]


# The user's defaults


def test_defaults_give_way_to_the_variable_and_that_to_options(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "config"
    folder.mkdir()
    file = folder / "models.toml"
    file.write_text(f'[defaults]\nmodel = "{tiny}"\nmax_tokens = 3\nseed = 7\ncontext = 128\n')

    def answer(*options: str) -> dict[str, object]:
        parsed: dict[str, object] = json.loads(llamacli("run", "hi", "--json", *options).stdout)
        return parsed

    assert {"answer_tokens": 3, "seed": 7}.items() <= answer().items()
    assert {"answer_tokens": 2, "seed": 8}.items() <= answer("-n", "2", "--seed", "8").items()
    monkeypatch.setenv("LLAMACLI_MODEL", "llama-3-8b")
    assert "llama-3-8b is not in the store" in error("run", "hi", check=4)
    assert answer("-m", str(tiny))["answer_tokens"] == 3
    file.write_text("[defaults]\ncontext = 128\nmodle = 'x'\n")
    told = error("run", "hi", "-m", str(tiny), check=3)
    assert f"{file}: defaults.modle is not known; did you mean model?" in told
    llamacli("list")  # which has no defaults


# list, path, rm


def test_list(tiny: Path, store: Path, tmp_path: Path) -> None:
    told = llamacli("list")
    assert told.stdout == b"" and b"is empty" in told.stderr and b"demo" in told.stderr
    store.mkdir()
    (store / "llama-3.2-1b-F32.gguf").write_bytes(tiny.read_bytes())
    (store / "broken-Q8_0.gguf").write_bytes(b"GGUF\x03")
    before = datetime.now().astimezone() - timedelta(seconds=1)
    llamacli("run", "hi", "-m", "llama-3.2-1b", "-n", "1")
    broken, good = json.loads(llamacli("list", "--json").stdout)
    assert before <= datetime.fromisoformat(good.pop("last_used")) <= datetime.now().astimezone()
    assert good == {
        "name": "llama-3.2-1b-F32",
        "short_names": ["llama-3.2-1b"],
        "path": str(store / "llama-3.2-1b-F32.gguf"),
        "quantization": "F32",
        "bytes": tiny.stat().st_size,
        "context": CONTEXT,
        "problem": None,
        "adapter_of": None,
    }
    assert broken["quantization"] is None and broken["last_used"] is None and broken["problem"]
    head, first, second = llamacli("list").stdout.decode().splitlines()
    assert head.split() == ["name", "quantization", "size", "context", "last", "used"]
    assert first.startswith("broken-Q8_0") and "damaged" in first and "never" in first
    assert second.split()[:2] == ["llama-3.2-1b-F32", "F32"] and str(CONTEXT) in second


def test_list_of_known_models() -> None:
    rows = llamacli("list", "--known").stdout.decode().splitlines()
    assert len(rows) == 1 + len(registry.models()) and all(len(row) < 80 for row in rows)
    row = next(row for row in rows if row.startswith("llama-3.1-8b "))
    assert " ".join(row.split()) == "llama-3.1-8b 8.03 G 16.06 GB 4.92 GB 5.99 GB 131072"
    by_name = {
        model["name"]: model for model in json.loads(llamacli("list", "--known", "--json").stdout)
    }
    assert by_name["llama-3.1-8b"]["parameters"] == 8_030_261_248


def test_names_are_whole_on_a_narrow_terminal() -> None:
    terminal = Terminal([*PROGRAM, "list", "--known"], columns=40)
    assert terminal.leave() == 0
    assert all(any(line.startswith(name) for line in terminal.lines) for name in registry.models())


def test_path(put: Put, store: Path) -> None:
    put("mine-Q8_0")
    printed = llamacli("path", "mine").stdout
    assert printed == os.fsencode(store / "mine-Q8_0.gguf") + b"\n"
    assert "did you mean mine" in error("path", "mien", check=4)
    assert last_used(store / "mine-Q8_0.gguf") is None
    told = llamacli("path", "demo")  # which is made on its first use
    assert Path(told.stdout.decode().strip()).read_bytes()[:4] == b"GGUF"


def test_rm_asks_for_yes_where_it_cannot_ask(put: Put, store: Path) -> None:
    put("one-Q8_0", "two-Q8_0")
    mark_used(store / "one-Q8_0.gguf")
    assert "--yes" in error("rm", "one", check=2)
    assert len(stored_models()) == 2
    told = llamacli("rm", "one", "two", "one", "--yes")
    assert told.stdout == b"" and told.stderr.count(b"removed") == 2
    assert stored_models() == [] and last_used(store / "one-Q8_0.gguf") is None


@pytest.mark.parametrize(
    ("typed", "code", "left"),
    [("y\r", 0, 0), ("n\r", 0, 1), ("\r", 0, 1), ("\x04", 0, 1), ("\x03", 130, 1)],
)
def test_rm_asks_on_a_terminal(typed: str, code: int, left: int, put: Put) -> None:
    put("mine-Q8_0")
    terminal = Terminal([*PROGRAM, "rm", "mine"])
    terminal.wait("remove mine-Q8_0 (11 B)? [y/N]")
    terminal.type(typed)
    assert terminal.leave() == code and terminal.screen.cursor.x == 0
    assert len(stored_models()) == left


def test_ctrl_c_as_a_question_appears_ends_its_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It comes after the words are there, and before an answer is waited for."""

    def interrupted(out: TextIO) -> Write:
        def write(text: str) -> None:
            out.write(text)
            raise KeyboardInterrupt

        return write

    monkeypatch.setattr("llamacli.terminal.writer", interrupted)
    with pytest.raises(KeyboardInterrupt):
        asked("remove it?")
    assert capsys.readouterr().err == "remove it? \n"


def test_rm_removes_nothing_outside_the_store(put: Put, store: Path, tmp_path: Path) -> None:
    put("mine-Q8_0")
    outside = tmp_path / "outside-Q8_0.gguf"
    outside.write_text("keep")
    (store / "link-Q8_0.gguf").symlink_to(outside)
    other = tmp_path / "mine-Q8_0.gguf"  # called as the store's
    other.write_text("keep, too")
    outer = (str(other), str(other.with_suffix("")), f"{tmp_path.name}/no/mine", "./mine-Q8_0")
    for name in (*outer, str(outside), "../outside-Q8_0", "../outside-Q8_0.gguf", "*", ".", "/"):
        assert "in the store" in error("rm", "--yes", "--", name, check=4)
    assert "a name or a path is empty" in error("rm", "--yes", "--", "", check=2)
    with pytest.raises(NotFoundError):
        remove_model(outside)
    llamacli("rm", "--yes", "link")
    llamacli("rm", "--yes", str(store / "mine-Q8_0.gguf"))
    assert outside.read_text() == "keep" and stored_models() == []


def test_rm_tells_what_it_cannot_remove(put: Put, store: Path) -> None:
    put("mine-Q8_0")
    (store / "mine-Q8_0.gguf").unlink()
    (store / "mine-Q8_0.gguf").mkdir()
    assert "in the store" in error("rm", "--yes", "mine", check=4)  # a folder is no model
    with pytest.raises(OutputError, match="can't be removed"):
        remove_model(store / "mine-Q8_0.gguf")


def test_last_use_is_noted_of_the_store_alone(put: Put, store: Path, tmp_path: Path) -> None:
    put("mine-Q8_0")
    outside = tmp_path / "outside.gguf"
    outside.touch()
    mark_used(outside)
    assert not (store / ".used").exists()
    mark_used(store / "mine-Q8_0.gguf")
    assert last_used(store / "mine-Q8_0.gguf") is not None
    (store / ".used" / "mine-Q8_0.gguf").unlink()
    (store / ".used").rmdir()
    (store / ".used").touch()  # in the way
    mark_used(store / "mine-Q8_0.gguf")
    assert last_used(store / "mine-Q8_0.gguf") is None


# Strangers' files


def test_hostile_names_of_files(store: Path, tiny: Path) -> None:
    store.mkdir()
    names = [
        b"a\nb.gguf",
        b"\x1b[31mred.gguf",
        b"\xff\xfe.gguf",
        b"-rf.gguf",
        b"x" * 250 + b".gguf",
    ]
    for name in names:
        Path(os.fsdecode(os.fsencode(store) + b"/" + name)).symlink_to(tiny)
    (store / "folder.gguf").mkdir()
    (store / "dangling.gguf").symlink_to(store / "nowhere")
    (store / ".hidden.gguf").write_text("")
    os.mkfifo(store / "pipe.gguf")
    lines = llamacli("list").stdout.decode().splitlines()
    assert len(lines) == 1 + len(names) and not any("\x1b" in line for line in lines)
    assert len(json.loads(llamacli("list", "--json").stdout)) == len(names)
    told = error("run", "hi", check=2)
    assert "\\x1b[31mred" in told and "a\\nb" in told
    assert llamacli("path", "--", "a\nb").stdout == os.fsencode(store) + b"/a\nb.gguf\n"
    assert llamacli("path", os.fsdecode(b"\xff\xfe")).stdout.endswith(b"/\xff\xfe.gguf\n")
    assert b"\x1b" not in llamacli("rm", "--yes", "\x1b[31mred").stderr
    assert len(stored_models()) == len(names) - 1


# Several processes


def test_many_processes_at_once_leave_the_store_whole(
    store: Path, tiny: Path, tmp_path: Path
) -> None:
    """Some use the demo, which each may have to make; some list, add and remove meanwhile."""
    worker = tmp_path / "worker.py"
    worker.write_text(WORKER)
    commands = ("use", "use", "list", "rm", "add", "add")
    children = [
        subprocess.Popen([sys.executable, worker, command, tiny], stderr=subprocess.PIPE, text=True)
        for command in commands
    ]
    for command, child in zip(commands, children, strict=True):
        _, errors = child.communicate(timeout=PATIENCE)
        assert child.returncode == 0, f"{command}: {errors}"
    left = [path.name for path in store.iterdir()]
    models = {"demo-Q4_K_M.gguf", "tiny-F32.gguf"}
    assert set(left) - {".used"} <= models
    assert all(model.problem is None for model in inventory())
    assert {p.name for p in (store / ".used").iterdir()} <= models


WORKER = """
import shutil, sys, time
from pathlib import Path
from typing import TextIO
from convert.target import whole_file
from llamacli.models.opening import demo_model
from llamacli.errors import InvalidModelError, NotFoundError
from llamacli.gguf.check import check_llama
from llamacli.gguf.contents import REPLACED
from llamacli.gguf.file import read_gguf
from llamacli.models.listing import inventory
from llamacli.models.names import find_stored
from llamacli.models.store import mark_used, remove_model, target_path

command, tiny = sys.argv[1], Path(sys.argv[2])
done = 0
for _ in range(40):
    try:
        if command == "use":
            path = demo_model()
            mark_used(path)
            check_llama(read_gguf(path))
        elif command == "list":
            damaged = [m for m in inventory() if m.problem and "no file" not in m.problem]
            assert not damaged, damaged
        elif command == "rm":
            time.sleep(0.05)
            for name in ("demo", "tiny"):
                remove_model(find_stored(name))
        else:
            with whole_file(target_path("tiny", "F32"), force=True) as part:
                shutil.copy(tiny, part)
        done += 1
    except NotFoundError:
        pass  # removed by another
    except InvalidModelError as error:  # removed and made anew by others
        assert error.fault == REPLACED, error
assert done or command == "rm"  # which may find nothing, each time
"""


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("Llama-3.2-1B", "Llama-3.2-1B"),
        (".hidden", "hidden"),
        ("..", "above"),
        ("hub/models--owner--Some-Llama/snapshots/" + "0123456789" * 4, "Some-Llama"),
        ("snapshots/other", "other"),
    ],
)
def test_what_is_made_of_a_folder_is_found_by_its_name(
    folder: str, name: str, tmp_path: Path
) -> None:
    place = tmp_path / "above" / "inside" / folder
    place.mkdir(parents=True, exist_ok=True)
    assert folder_name(place) == name
    assert target_path(name, "Q8_0").name == f"{name}-Q8_0.gguf"
    target_path(name, "Q8_0").touch()
    assert find_model(name).name == f"{name}-Q8_0.gguf"


def test_a_store_that_can_not_be_read_is_not_an_empty_one(
    put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    put("one-Q8_0")

    def refuse(folder: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(folder))

    monkeypatch.setattr(os, "listdir", refuse)
    monkeypatch.setattr(os, "scandir", refuse)
    for look in (stored_models, inventory, only_model, lambda: find_model("one")):
        with pytest.raises(NotFoundError, match="can't be read: Permission denied"):
            look()
    assert complete_models("de") == ["demo"]


def test_a_file_in_the_stores_place_is_no_store(store: Path) -> None:
    store.write_bytes(b"")
    with pytest.raises(NotFoundError, match="can't be read"):
        inventory()
