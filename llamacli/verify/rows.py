"""What a comparison found: a verdict, and each difference in words."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Verdict = Literal["passed", "failed", "skipped"]


@dataclass(frozen=True)
class Row:
    """One thing that was compared. problems are lines, none where it passed.

    measures are numbers for JSON, beyond what the summary says.
    """

    name: str
    verdict: Verdict
    summary: str
    problems: tuple[str, ...] = ()
    measures: Mapping[str, Any] = field(default_factory=dict)


def judged(
    name: str, problems: Sequence[str], good: str, measures: Mapping[str, Any] | None = None
) -> Row:
    """A row that failed where there are problems, and passed, saying good, where there are none."""
    measures = measures or {}
    if not problems:
        return Row(name, "passed", good, (), measures)
    many = "1 difference" if len(problems) == 1 else f"{len(problems)} differences"
    return Row(name, "failed", many, tuple(problems), measures)


def finite(value: float) -> float | None:
    """The value, or None for what JSON has no number for."""
    return value if math.isfinite(value) else None


def skipped(name: str, why: str) -> Row:
    return Row(name, "skipped", why)
