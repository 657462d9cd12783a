"""The last lines on a terminal, rewritten in place: only what differs is sent."""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Region:
    """shown are the region's lines, the cursor being behind the last one.

    Each line must be narrower than the terminal. What has scrolled off the screen stays as it is.
    """

    shown: list[str] = field(default_factory=list)

    def redraw(self, lines: Sequence[str], height: int) -> str:
        """What a terminal of that many rows must be sent to show lines in shown's place."""
        if self.shown and not lines:
            lines = [""]
        before, self.shown = self.shown, list(lines)
        if before == self.shown:
            return ""
        if not before:
            return "\n".join(lines)
        top = max(0, len(before) - height)  # the first line that the cursor can reach
        first = max(top, _common(before, lines))
        if first == len(before) < len(lines):
            return "\n" + "\n".join(lines[first:])
        if len(lines) <= top:  # they end above the screen: show them once more
            return _up(len(before) - 1 - top) + "\x1b[J" + "\n".join(lines)
        first = min(first, len(lines) - 1)
        shorter = "\x1b[J" if len(lines) < len(before) else "\x1b[K"
        return _up(len(before) - 1 - first) + "\x1b[K\n".join(lines[first:]) + shorter

    def leave(self) -> str:
        """What puts the cursor below the region, which is then a new, empty one there."""
        below = "\n" if self.shown else ""
        self.shown = []
        return below


def _up(rows: int) -> str:
    return f"\x1b[{rows}A\r" if rows else "\r"


def _common(a: Sequence[str], b: Sequence[str]) -> int:
    pairs = enumerate(zip(a, b, strict=False))
    return next((i for i, (x, y) in pairs if x != y), min(len(a), len(b)))
