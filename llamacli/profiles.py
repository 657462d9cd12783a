"""The settings that `llamacli tune` found best for a model on this machine."""

from pathlib import Path
from typing import Any


def tuned_settings(path: Path, profile: str) -> dict[str, Any] | None:  # noqa: ARG001
    """EngineSettings' fields for the model at path, by name; None where nothing was measured."""
    return None
