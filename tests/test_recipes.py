"""Every recipe of docs/recipes.md, run in bash with the demo."""

import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.standins.waiting import PATIENCE

PAGE = Path(__file__).resolve().parents[1] / "docs" / "recipes.md"
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def recipes() -> list[tuple[str, str]]:
    """(title, code) of each section; the first one, which has no title, sets up."""
    first, *others = re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)
    titled = [("", first), *((text.split("\n", 1)[0], text) for text in others)]
    return [(title, code) for title, text in titled for code in BLOCK.findall(text)]


def check_commit(folder: Path, out: str) -> None:
    log = subprocess.run(["git", "-C", folder / "project", "log", "--format=%B"],
                         capture_output=True, text=True)  # fmt: skip
    assert log.stdout.strip() and log.stdout.split() == (folder / "message").read_text().split()


def check_csv(folder: Path, out: str) -> None:
    rows = list(csv.reader(out.splitlines()))
    assert [row[0] for row in rows] == ["1", "2", "3"]
    assert {row[2] for row in rows} <= {"positive", "negative"}


def check_json(folder: Path, out: str) -> None:
    person = json.loads(out)
    assert isinstance(person["name"], str) and 0 <= person["age"] <= 150


def check_folder(folder: Path, out: str) -> None:
    for name in ("meeting", "cable"):
        assert (folder / "notes" / f"{name}.fr.txt").read_text().strip()


def check_slug(folder: Path, out: str) -> None:
    names = {path.stem for path in (folder / "notes").glob("*.txt")}
    assert [name for name in names if re.fullmatch(r"[a-z]{2,10}(-[a-z]{2,10}){1,3}", name)]


def check_answers(folder: Path, out: str) -> None:
    lines = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == [1, 2, 3] and all(line["text"] for line in lines)


def check_jobs(folder: Path, out: str) -> None:
    assert {json.loads(line)["id"] for line in out.splitlines()} == {"greeting", "turns"}


def check_events(folder: Path, out: str) -> None:
    names = [line.split()[0] for line in out.splitlines()]
    assert names[0] == "start" and names[-1] == "end" and {"text"} == set(names[1:-1])


def check_tickets(folder: Path, out: str) -> None:
    assert len(out.splitlines()) == 3
    assert set(out.split()) <= {"hardware", "billing", "other"}


def says(pattern: str) -> Callable[[Path, str], None]:
    def check(folder: Path, out: str) -> None:
        assert re.search(pattern, out), out

    return check


CHECKS: dict[str, Callable[[Path, str], None]] = {
    "": lambda folder, out: None,
    "A commit message": check_commit,
    "Summarize a log": says(r"\S+"),
    "Yes or no, for an if": says(r"^(look into it|all is well)\n$"),
    "Classify the lines of a CSV file": check_csv,
    "Extract JSON from text": check_json,
    "Translate a folder": check_folder,
    "Compare two files": says(r"\w+"),
    "A name for a file, in a form of your own": check_slug,
    "Many prompts, in several sittings": check_answers,
    "Prompts with settings of their own": check_jobs,
    "The same answer every time, and what it took": says(r"^\d+ tokens at [\d.]+ a second\n$"),
    "Text as it arrives, for a program": check_events,
    "Know what went wrong": says(r"^cut, or failed: llamacli: the answer was cut after 5 tokens"),
    "A long instruction, a hundred times": check_tickets,
    "Tools, call after call": says(r"^You have demo-Q4_K_M\.\n$"),
}


@pytest.fixture(scope="module")
def kitchen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for all recipes, with a program llamacli of this very interpreter."""
    folder = tmp_path_factory.mktemp("kitchen")
    (folder / "bin").mkdir()
    program = folder / "bin" / "llamacli"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m llamacli "$@"\n')
    program.chmod(0o755)
    (folder / "work").mkdir()
    return folder


def test_every_block_is_known() -> None:
    assert [title for title, _ in recipes()] == list(CHECKS)
    assert PAGE.read_text().count("```sh\n") == len(CHECKS) > 12


@pytest.mark.parametrize("title", CHECKS)
def test_recipe(title: str, kitchen: Path) -> None:
    """In the page's order: later ones use files of earlier ones."""
    code = dict(recipes())[title]
    child = subprocess.run(
        ["bash", "-c", f"set -o pipefail\nexport LLAMACLI_MODEL=demo\n{code}"],
        cwd=kitchen / "work",
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env={
            **os.environ,
            "PATH": f"{kitchen / 'bin'}:{os.environ['PATH']}",
            "LLAMACLI_HOME": str(kitchen / "store"),
            "LLAMACLI_THREADS": "1",
            "PYTHONPATH": str(PAGE.parents[1]),
        },
    )
    assert child.returncode == 0, child.stderr
    assert "unexpected" not in child.stderr and "Traceback" not in child.stderr
    CHECKS[title](kitchen / "work", child.stdout)
