"""What GitHub's machines are told to do, which can't run here, says what the Makefile does."""

import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
yaml: Any = pytest.importorskip("yaml")  # huggingface_hub needs it


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def commands(path: Path) -> str:
    jobs = read(path)["jobs"].values()
    return "\n".join(step.get("run", "") for job in jobs for step in job["steps"])


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_every_step_does_one_thing(path: Path) -> None:
    for job in read(path)["jobs"].values():
        assert all(("run" in step) != ("uses" in step) for step in job["steps"])
        assert all(re.fullmatch(r"[\w./-]+@v\d+", s["uses"]) for s in job["steps"] if "uses" in s)
        variables = re.findall(r"\$\{\{ (.*?) \}\}", path.read_text(encoding="utf-8"))
        matrix = {f"matrix.{name}" for name in job["strategy"]["matrix"]}
        assert {name for name in variables if name.startswith("matrix.")} <= matrix


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_the_files_and_options_that_it_names_are_there(path: Path) -> None:
    said, makefile = commands(path), (ROOT / "Makefile").read_text(encoding="utf-8")
    named = re.findall(r"-r (\S+)", said)
    assert named and all((ROOT / name).is_file() for name in named)
    extras = re.findall(r"\[([\w,]+)\]", said)
    known = re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE)
    assert extras and {one for found in extras for one in found.split(",")} <= set(known)
    (told,) = re.findall(r"python -m pytest (.*)", said)
    assert told.replace("auto", "$(or $(WORKERS),auto)") in makefile


def test_llama_cpp_is_compiled_alike_wherever_it_is_told() -> None:
    (flags,) = re.findall(r"FLAGS_all := (.*)", (ROOT / "Makefile").read_text(encoding="utf-8"))
    told = re.findall(r'CMAKE_ARGS ?= ?"(.*?)"', (ROOT / "README.md").read_text(encoding="utf-8"))
    told += [job["env"]["CMAKE_ARGS"] for path in WORKFLOWS for job in read(path)["jobs"].values()]
    assert len(told) > 2 and {one for one in told if one != "…"} == {flags}
