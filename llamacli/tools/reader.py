"""An answer as it comes, parted into its text, which goes out at once, and its calls; and a call on
its way, its name as soon as it stands there, its arguments as they are written."""

import json
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace

from llamacli.tools import forms

READERS: dict[str, Callable[[str, Collection[str]], forms.Read]] = {
    "{": forms.read_object,
    "[": forms.read_list,
    forms.FUNCTION_TAG: forms.read_function,
    forms.CALL_TAG: forms.read_call,
}
FENCE = "```"
HEAD = re.compile(r'[\s\[,}]*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"parameters"\s*:\s*(?=\{)')


@dataclass
class Brackets:
    """How deep in JSON's brackets a text is by now, and whether in a string."""

    depth: int = 0
    quoted: bool = False
    escaped: bool = False

    def step(self, c: str) -> None:
        """Take one more character."""
        if self.quoted:
            self.quoted = c != '"' or self.escaped
            self.escaped = c == "\\" and not self.escaped
        else:
            self.quoted = c == '"'
            self.depth += (c in "{[") - (c in "}]")


@dataclass
class Place(Brackets):
    """Where in a text a call might begin: at a line's start, outside of code and other JSON."""

    line: str = ""  # the end of the line so far, without the blanks in front
    fenced: bool = False

    @property
    def free(self) -> bool:
        return not (self.fenced or self.depth)

    def step(self, c: str) -> None:
        """Take one more character; an empty line ends JSON that was never closed."""
        if c == "\n":
            if not self.line:
                self.depth, self.quoted, self.escaped = 0, False, False
            self.line = ""
            return
        self.line = (self.line + c)[-8:].lstrip() if len(self.line) < 8 else self.line[1:] + c
        if self.depth:
            super().step(c)
        self.fenced = self.fenced != (self.line == FENCE)


@dataclass
class Reader:
    """Fed with an answer's pieces, in which CALL_MARKERS are spelled out.

    names are those of the tools that there are: what calls another is text. JSON and lists are
    calls where they begin a line, outside of a block of code.
    """

    names: Collection[str]
    calls: list[forms.Call] = field(default_factory=list)
    held: str = ""  # what may begin a call
    tagged: str | None = None  # what followed <|python_tag|>
    place: Place = field(default_factory=Place)
    called: bool = False  # whether what went before is a call

    def feed(self, piece: str) -> str:
        """The text that can go out now that piece has come."""
        if self.tagged is not None:
            self.tagged += piece
            return ""
        self.held += piece
        return self._advance(final=False)

    def finish(self, *, cut: bool = False) -> str:
        """The text that was held back and is no call, at the answer's end, be it cut there."""
        ready = self._advance(final=True)
        if self.tagged is None:
            return ready
        calls = forms.read_tagged(self.tagged, self.names, cut=cut)
        if calls is None:
            return ready + self.tagged
        self.calls += calls
        return ready

    def _advance(self, *, final: bool) -> str:
        ready = ""
        while self.tagged is None:
            if self.called:
                self.held = self.held.lstrip(forms.SEPARATORS)
            start, opener = self._opening(final)
            ready += self._out(start)
            if opener is None:
                break
            if opener == forms.PYTHON_TAG:
                self.tagged, self.held = self.held[len(forms.PYTHON_TAG) :], ""
                break
            calls = READERS[opener](self.held, self.names)
            if isinstance(calls, tuple):
                self.calls += calls[0]
                self.held, self.place, self.called = self.held[calls[1] :], Place(), True
            elif calls == forms.MORE:
                if final:  # half a call is text, whatever stands in it
                    ready += self._out(len(self.held))
                break
            else:
                ready += self._out(1)
                if opener in "{[":
                    self.place.depth = 1
        return ready

    def _opening(self, final: bool) -> tuple[int, str | None]:
        """Where in held the next call may begin, and by what; else how much of it is text."""
        place = replace(self.place)
        for i, c in enumerate(self.held):
            if c in "{[" and not place.line and place.free:
                return i, c
            if c == "<" and place.free:
                for opener in (forms.PYTHON_TAG, forms.FUNCTION_TAG, forms.CALL_TAG):
                    rest = self.held[i : i + len(opener)]
                    if rest == opener:
                        return i, opener
                    if not final and opener.startswith(rest):
                        return i, None
            place.step(c)
        return len(self.held), None

    def _out(self, count: int) -> str:
        """The first characters of held, as text."""
        text, self.held = self.held[:count], self.held[count:]
        for c in text:
            self.place.step(c)
        self.called = self.called and not text
        return text


@dataclass(frozen=True)
class CallPart:
    """A piece of a call: its name where it begins, and more of its arguments' JSON."""

    name: str | None = None
    arguments: str = ""


def parts_of(calls: Sequence[forms.Call]) -> list[CallPart]:
    """Calls that have come whole."""
    return [CallPart(c.name, json.dumps(c.arguments, ensure_ascii=False)) for c in calls]


@dataclass
class HeldCalls(Brackets):
    """Fed with the pieces of an answer that is held to calls, which are as calls_grammar has them
    and will be whole. The brackets are those of arguments; no depth is outside."""

    held: str = ""  # what isn't given yet: outside of arguments

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
        return parts

    def _arguments(self) -> int:
        """How many characters, the first ones, belong to the arguments that are open or begin."""
        for place, c in enumerate(self.held, 1):
            self.step(c)
            if not self.depth:
                return place
        return len(self.held)
