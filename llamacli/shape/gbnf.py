"""GBNF, llama.cpp's grammar format, read into rules; see llama.cpp's grammars/README.md."""

import re
from dataclasses import dataclass, field

from llamacli.errors import InvalidModelError
from llamacli.shape.grammar import ANY, Builder, Chars, Grammar, Items, Ref, chars

MAX_TEXT = 1 << 20
MAX_NESTING = 64
NAME = re.compile(r"[A-Za-z0-9-]+")
BLANK = re.compile(r"(?:[ \t]|#[^\r\n]*)*")
BLANK_LINES = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
COUNTS = re.compile(r"\{\s*(\d+)\s*(?:(,)\s*(\d+)?\s*)?\}")
HEX = {"x": 2, "u": 4, "U": 8}
ESCAPES = {"t": "\t", "r": "\r", "n": "\n", "\\": "\\", '"': '"', "[": "[", "]": "]", "-": "-"}
REPEATS: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}


def read_gbnf(text: str) -> Grammar:
    """The grammar of a GBNF text. Raises InvalidModelError that names the line."""
    if len(text) > MAX_TEXT:
        raise InvalidModelError(f"the grammar has {len(text)} characters; {MAX_TEXT} are read")
    reader = _Reader(text)
    reader.rule("root")
    reader.skip(BLANK_LINES)
    while reader.at < len(text):
        reader.definition()
    return reader.builder.finish()


@dataclass
class _Reader:
    text: str
    at: int = 0
    builder: Builder = field(default_factory=Builder)
    known: dict[str, Ref] = field(default_factory=dict)

    def fail(self, problem: str) -> InvalidModelError:
        line = self.text.count("\n", 0, self.at) + 1
        return InvalidModelError(f"the grammar's line {line}: {problem}")

    def rule(self, name: str) -> Ref:
        if name not in self.known:
            self.known[name] = self.builder.reserve(name)
        return self.known[name]

    def skip(self, blank: re.Pattern[str]) -> None:
        found = blank.match(self.text, self.at)
        self.at = found.end() if found else self.at

    def definition(self) -> None:
        """NAME ::= alternatives, and the line's end."""
        found = NAME.match(self.text, self.at)
        if not found:
            raise self.fail("a rule's name is expected")
        self.at = found.end()
        self.skip(BLANK)
        if not self.text.startswith("::=", self.at):
            raise self.fail(f"::= is expected behind {found.group()}")
        rule = self.rule(found.group())
        if self.builder.rules[rule.rule] is not None:
            raise self.fail(f"the rule {found.group()} is defined twice")
        self.at += 3
        self.skip(BLANK_LINES)
        self.builder.define(rule, self.alternatives(BLANK, 0))
        if self.at < len(self.text) and self.text[self.at] not in "\r\n":
            raise self.fail(f"unexpected {self.text[self.at]!r}")
        self.skip(BLANK_LINES)

    def alternatives(self, blank: re.Pattern[str], depth: int) -> list[Items]:
        found = [self.sequence(blank, depth)]
        while self.text.startswith("|", self.at):
            self.at += 1
            self.skip(BLANK_LINES)
            found.append(self.sequence(blank, depth))
        return found

    def sequence(self, blank: re.Pattern[str], depth: int) -> Items:
        """Items up to what can't be one; inside parentheses lines don't count."""
        items: Items = ()
        last: Items | None = None
        while self.at < len(self.text):
            if (bounds := self.repetition()) is not None:
                if last is None:
                    raise self.fail("there is nothing to repeat")
                last = self.builder.repeat(last, *bounds)
            elif (found := self.item(depth)) is not None:
                items += last or ()
                last = found
            else:
                break
            self.skip(blank)
        return items + (last or ())

    def repetition(self) -> tuple[int, int | None] | None:
        if (bounds := REPEATS.get(self.text[self.at])) is not None:
            self.at += 1
            return bounds
        if self.text[self.at] != "{":
            return None
        found = COUNTS.match(self.text, self.at)
        if not found or max(map(len, filter(None, found.groups()))) > 9:
            raise self.fail("a count like {2}, {2,} or {2,5} is expected")
        self.at = found.end()
        least = int(found[1])
        most = least if not found[2] else int(found[3]) if found[3] else None
        if most is not None and most < least:
            raise self.fail(f"{most} is less than {least}")
        return least, most

    def item(self, depth: int) -> Items | None:
        first = self.text[self.at]
        if first == '"':
            return self.literal()
        if first == "[":
            return (self.char_class(),)
        if first == ".":
            self.at += 1
            return (ANY,)
        if first == "(":
            return self.group(depth)
        if first in "<!":
            raise self.fail("tokens by name or number are not supported; write characters")
        if found := NAME.match(self.text, self.at):
            self.at = found.end()
            return (self.rule(found.group()),)
        return None

    def group(self, depth: int) -> Items:
        if depth >= MAX_NESTING:
            raise self.fail(f"parentheses nest deeper than {MAX_NESTING}")
        self.at += 1
        self.skip(BLANK_LINES)
        found = self.alternatives(BLANK_LINES, depth + 1)
        if not self.text.startswith(")", self.at):
            raise self.fail("a ) is missing")
        self.at += 1
        return self.builder.choice(found)

    def literal(self) -> Items:
        self.at += 1
        codes = []
        while (code := self.character('"')) is not None:
            codes.append(code)
        return tuple(chars([(code, code)]) for code in codes)

    def char_class(self) -> Chars:
        self.at += 1
        negated = self.text.startswith("^", self.at)
        self.at += negated
        ranges = []
        while (low := self.character("]")) is not None:
            high = low
            if self.text.startswith("-", self.at) and not self.text.startswith("-]", self.at):
                self.at += 1
                end = self.character("")
                high = low if end is None else end
            if high < low:
                raise self.fail("a range's end is before its start")
            ranges.append((low, high))
        return chars(ranges, negated=negated)

    def character(self, end: str) -> int | None:
        """One character's code, escapes resolved; None for end, which is passed."""
        if self.at >= len(self.text):
            raise self.fail("the grammar ends inside a literal or class")
        char = self.text[self.at]
        self.at += 1
        if end and char == end:
            return None
        if char != "\\":
            return ord(char)
        kind = self.text[self.at : self.at + 1]
        self.at += 1
        if kind in ESCAPES:
            return ord(ESCAPES[kind])
        digits = self.text[self.at : self.at + HEX.get(kind, 0)]
        if kind not in HEX or not re.fullmatch("[0-9a-fA-F]" * HEX[kind], digits):
            raise self.fail(f"unknown escape \\{kind}")
        self.at += len(digits)
        return int(digits, 16)
