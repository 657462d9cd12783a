"""The wheel as `pip install` puts it somewhere: all that the program reads is in it."""

import os
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.conftest import Made
from tests.standins.waiting import PATIENCE

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def wheel(made: Made) -> Path:
    def build(folder: Path) -> None:
        command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=PATIENCE)

    (path,) = made("wheel", build).glob("*.whl")
    return path


def test_everything_in_the_packages_is_in_it(wheel: Path) -> None:
    there = {
        path.relative_to(ROOT).as_posix()
        for package in ("llamacli", "convert")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    packed = set(ZipFile(wheel).namelist())
    assert there - {"llamacli/models.toml"} <= packed
    kinds = {Path(name).suffix for name in packed}
    assert kinds >= {".py", ".pyi", ".json", ".safetensors", ".toml"}
    assert not [name for name in packed if name.startswith(("tests/", "bench/", "demo/"))]


def test_it_answers_where_it_was_installed(wheel: Path, store: Path, tmp_path: Path) -> None:
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*command, "--target", site, wheel], check=True, timeout=PATIENCE)

    def run(*arguments: str) -> str:
        child = subprocess.run(
            [sys.executable, *arguments],
            cwd=elsewhere,
            env={**os.environ, "PYTHONPATH": str(site)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=PATIENCE,
        )
        assert child.returncode == 0, child.stderr
        return child.stdout

    for package in ("llamacli", "convert"):
        place = run("-c", f"import {package}; print({package}.__file__)")
        assert Path(place.strip()).is_relative_to(site)
    assert "GGUF" in run("-m", "llamacli", "run", "-m", "demo", "--temp", "0", "What is GGUF?")
    assert "llama-3.1-8b" in run("-m", "llamacli", "list", "--known")
    demo = str(site / "llamacli" / "demo")
    told = run("-m", "llamacli", "verify", "demo", "--against", demo, "--json")
    assert '"tokenization"' in told  # reads recorded_ids.json
