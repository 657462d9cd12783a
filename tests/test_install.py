"""`make install` with a wheel that was compiled elsewhere, as README tells; pip is stood in for."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.standins.waiting import PATIENCE

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    """A virtual environment whose pip and Python write down what they are called with."""
    folder = tmp_path / "venv"
    (folder / "bin").mkdir(parents=True)
    for name in ("pip", "python"):
        program = folder / "bin" / name
        program.write_text(f'#!/bin/sh\necho {name} "$@" >> "{folder}/called"\n')
        program.chmod(0o755)
    return folder


def install(venv: Path, *settings: str) -> tuple[int, str, list[str]]:
    """make's exit code, what it says on stderr, and the calls that install something."""
    called = venv / "called"
    called.write_text("")
    environment = {**os.environ, "XDG_CACHE_HOME": str(venv.parent / "cache")}
    for name in ("ACCEL", "WHEEL", "MAKEFLAGS", "MAKELEVEL"):
        environment.pop(name, None)
    child = subprocess.run(
        ["make", "--no-print-directory", "install", f"VENV={venv}", *settings],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    return child.returncode, child.stderr, called.read_text().splitlines()


def named() -> str:
    match = re.search(r'"llama-cpp-python==([^"]+)"', (ROOT / "pyproject.toml").read_text())
    assert match is not None
    return f"llama_cpp_python-{match[1]}-py3-none-any.whl"


def test_a_prebuilt_wheel_is_installed_and_stays(venv: Path) -> None:
    wheel = venv.parent / named()
    wheel.write_text("compiled elsewhere")
    code, told, calls = install(venv, f"WHEEL={wheel}")
    assert code == 0, told
    assert "compiling" not in told and not (venv.parent / "cache").exists()
    assert [call for call in calls if call.endswith(f"--force-reinstall --no-deps {wheel}")]
    assert [call for call in calls if call.endswith("--require-hashes -r requirements.lock")]
    assert (venv / ".build").read_text().startswith("wheel-")
    assert install(venv) == (0, "", [])  # nothing to do, and nothing compiled over it
    wheel.write_text("compiled anew")
    code, _, calls = install(venv, f"WHEEL={wheel}")
    assert code == 0 and [call for call in calls if str(wheel) in call]


def test_a_wheel_of_another_version_is_refused(venv: Path) -> None:
    wheel = venv.parent / "llama_cpp_python-0.0.1-py3-none-any.whl"
    wheel.write_text("")
    code, told, calls = install(venv, f"WHEEL={wheel}")
    assert code != 0 and "WHEEL must be one of llama-cpp-python==" in told
    assert not [call for call in calls if str(wheel) in call] and not (venv / ".build").exists()
