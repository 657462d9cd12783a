"""A call on its way: its name as soon as it stands there, its arguments as they are written.

Only for answers that are held to calls, which are as calls_grammar has them and will be whole.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from llamacli.tools.forms import Call

HEAD = re.compile(r'[\s\[,}]*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"parameters"\s*:\s*(?=\{)')


@dataclass(frozen=True)
class CallPart:
    """A piece of a call: its name where it begins, and more of its arguments' JSON."""

    name: str | None = None
    arguments: str = ""


def parts_of(calls: Sequence[Call]) -> list[CallPart]:
    """Calls that have come whole."""
    return [CallPart(c.name, json.dumps(c.arguments, ensure_ascii=False)) for c in calls]


@dataclass
class HeldCalls:
    """Fed with such an answer's pieces."""

    held: str = ""  # what isn't given yet: outside of arguments
    depth: int = 0  # of the arguments' brackets; 0 is outside
    quoted: bool = False
    escaped: bool = False

    def feed(self, piece: str) -> list[CallPart]:
        """What of the calls can go out now that piece has come."""
        self.held += piece
        parts: list[CallPart] = []
        while self.held:
            if not self.depth:
                head = HEAD.match(self.held)
                if head is None:
                    break
                parts.append(CallPart(json.loads(head[1])))
                self.held = self.held[head.end() :]
            end = self._arguments()
            parts.append(CallPart(arguments=self.held[:end]))
            self.held = self.held[end:]
            if self.depth:
                break
        return parts

    def _arguments(self) -> int:
        """How many characters, the first ones, belong to the arguments that are open or begin."""
        for place, c in enumerate(self.held):
            if self.quoted:
                self.quoted = c != '"' or self.escaped
                self.escaped = c == "\\" and not self.escaped
                continue
            self.quoted = c == '"'
            self.depth += (c in "{[") - (c in "}]")
            if not self.depth:
                return place + 1
        return len(self.held)
