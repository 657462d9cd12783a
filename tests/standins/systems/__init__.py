"""macOS and Windows on Linux, as far as our packages see them: see sitecustomize here."""

import os
from pathlib import Path

SYSTEMS = ("macos", "windows")


def environment(system: str) -> dict[str, str]:
    """The variables by which a Python takes the program into such a system."""
    here = str(Path(__file__).parent)
    path = os.environ.get("PYTHONPATH")
    return {
        "LLAMACLI_SYSTEM": system,
        "PYTHONPATH": f"{here}{os.pathsep}{path}" if path else here,
        "PYTHONIOENCODING": "cp1252" if system == "windows" else "utf-8",
    }
