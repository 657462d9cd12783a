"""What SECURITY.md promises of the network, of pickles and of itself."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.promises import promised, unkept
from tests.standins.tiny import write_model
from tests.standins.waiting import PATIENCE
from tests.systems import needs_linux

Make = Callable[..., Path]

ROOT = Path(__file__).resolve().parents[1]
WATCHED = (
    "socket.connect",
    "socket.getaddrinfo",
    "socket.sendto",
    "pickle.find_class",
    "os.system",
)

# Read at every start of Python: refuses such events and notes them, imports' aside.
GUARD = f"""
import os, sys
def watch(event, arguments):
    if event in {WATCHED!r}:
        with open(os.environ["EVENTS"], "a") as file:
            file.write(event + "\\n")
        raise OSError("refused by the test")
sys.addaudithook(watch)
"""


@pytest.fixture
def guarded(tmp_path: Path) -> Callable[..., list[str]]:
    """Run the program under the guard; gives the events that were refused."""
    (tmp_path / "guard").mkdir()
    (tmp_path / "guard" / "sitecustomize.py").write_text(GUARD)
    events = tmp_path / "events"

    def run(*arguments: str | Path, code: int = 0, stdin: bytes = b"") -> list[str]:
        events.write_text("")
        places = f"{tmp_path / 'guard'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
        child = subprocess.run(
            [sys.executable, "-m", "llamacli", *map(str, arguments)],
            input=stdin,
            capture_output=True,
            timeout=PATIENCE,
            env={**os.environ, "PYTHONPATH": places, "EVENTS": str(events)},
        )
        assert child.returncode == code, child.stderr.decode()
        return events.read_text().split()

    return run


def test_nothing_goes_to_the_network_unasked(
    guarded: Callable[..., list[str]], checkpoint: Make, tmp_path: Path
) -> None:
    """Nor is anything unpickled: the demo made and asked, and each command on local files."""
    folder, model = checkpoint(), write_model(tmp_path / "tiny.gguf")
    (tmp_path / "lines").write_text("one\ntwo\n")
    answer = ["-n", "2", "--threads", "1", "-c", "128"]
    assert guarded("run", "What is GGUF?", "-m", "demo", "--cache", "auto", *answer) == []
    assert guarded("batch", tmp_path / "lines", "-m", model, *answer) == []
    assert guarded("chat", "-m", model, *answer, stdin=b"What is GGUF?") == []
    assert guarded("convert", folder, "-o", tmp_path / "out.gguf", "--q8", "--verify") == []
    assert guarded("verify", tmp_path / "out.gguf", "--against", folder) == []
    assert guarded("tune", model, "--profile", "short", "--seconds", "0.1") == []
    assert guarded("bench", model, "--runs", "1", "--prompt", "8", "--answer", "2") == []
    for command in (["show", folder], ["show", model], ["tokens", model, "words"]):
        assert guarded(*command) == []
    for command in (["list"], ["list", "--known"], ["path", "demo"], ["devices"], ["--version"]):
        assert guarded(*command) == []


def test_the_guard_sees_what_was_asked_for(
    guarded: Callable[..., list[str]], tmp_path: Path
) -> None:
    assert guarded("convert", "someone/some-model", "-o", tmp_path / "out.gguf", code=4)


def test_no_code_of_ours_unpickles_or_trusts_remote_code() -> None:
    calls = re.compile(
        r"^\s*(import|from) (pickle|marshal|shelve|dill|torch)\b|\bnp\.load\(|allow_pickle|"
        r"trust_remote_code|\bos\.system\(|shell=True|yaml\.load\(|(?<![.\w])(eval|exec)\(",
        re.MULTILINE,
    )
    sources = [*ROOT.glob("llamacli/**/*.py"), *ROOT.glob("convert/**/*.py")]
    assert len(sources) > 50
    offenders = [path.name for path in sources if calls.search(path.read_text(encoding="utf-8"))]
    assert offenders == []


def test_every_test_that_security_md_names_is_there() -> None:
    """That each of them has run and passed is looked at when all tests have."""
    named = promised(ROOT)
    assert len(named) > 10
    for test in named:
        file, _, function = test.partition("::")
        assert f"def {function}(" in (ROOT / file).read_text(encoding="utf-8"), test


def test_a_promise_is_kept_where_its_test_has_passed_once() -> None:
    outcomes = [
        ("tests/a.py::test_one[x]", "skipped"),
        ("tests/a.py::test_one[y]", "passed"),
        ("tests/a.py::test_two", "skipped"),
        ("tests/a.py::test_three_and_more", "passed"),
    ]
    named = ["tests/a.py::test_one", "tests/a.py::test_two", "tests/a.py::test_three"]
    assert unkept(named, outcomes) == named[1:]


@needs_linux
def test_tests_that_were_skipped_break_the_promise(tmp_path: Path) -> None:
    """The whole suite fails then, though none of its tests did; a part of it doesn't."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "SECURITY.md").write_text("`tests/test_a.py::test_skipped`")
    (tmp_path / "tests" / "test_a.py").write_text(
        "import pytest\n@pytest.mark.skip\ndef test_skipped(): pass\ndef test_passed(): pass\n"
    )
    (tmp_path / "pytest.ini").write_text("[pytest]\ntestpaths = tests\n")

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "pytest", "-p", "tests.promises", *arguments]
        env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_ADDOPTS": ""}
        env["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # which take a second to import
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)

    for arguments in ([], ["-p", "xdist", "-n", "1"]):
        result = run(*arguments)
        assert result.returncode == 1 and "tests/test_a.py::test_skipped" in result.stdout
    assert run("tests/test_a.py").returncode == 0
    assert run("-k", "skipped").returncode == 0


def test_what_is_installed_is_locked_with_its_hashes() -> None:
    """Every dependency of pyproject.toml, llama.cpp's source in a file of its own."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lock, test_lock, llama = (
        (ROOT / name).read_text()
        for name in ("requirements.lock", "requirements-test.lock", "llama-cpp-python.lock")
    )
    for asked in (*project["dependencies"], *project["optional-dependencies"]["fast"]):
        name = re.split(r"[<>=]", asked)[0].lower().replace("_", "-")
        assert re.search(rf"^{name}==", llama if name.startswith("llama-cpp") else lock, re.M)
        if "==" in asked:
            assert asked in llama
    for text in (lock, test_lock, llama):
        for pinned in re.split(r"\n(?=\w)", text.partition("\n")[2]):
            assert "==" not in pinned or "--hash=sha256:" in pinned, pinned
    pins = re.compile(r"^(\S+==\S+)", re.M)
    assert set(pins.findall(lock)) <= set(pins.findall(test_lock))
