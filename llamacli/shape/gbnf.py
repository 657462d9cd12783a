"""GBNF, llama.cpp's grammar format, as llguidance's Lark; see llama.cpp's grammars/README.md.

A Lark lexeme takes as much text as it can: what llguidance's own gbnf_to_lark makes of
`w "b"` with `w ::= [a-z]+` never ends. Here each character is a lexeme; or, where no rule comes
back to itself, the whole grammar is one, a regular expression. Both mean what the GBNF means.
"""

import graphlib
import re
from dataclasses import dataclass, field

from llguidance import LLMatcher

from llamacli.errors import InvalidModelError
from llamacli.shape.grammar import Grammar, checked

MAX_TEXT = 1 << 18
MAX_NESTING = 30
MAX_DEPTH = 3_000  # rules and parentheses: llguidance follows both by recursion
MAX_REPEAT = 100_000
MAX_REGULAR = 20_000  # parts of a regular expression with its rules written out
MAX_WORDS = 64  # literals that the search for an end tries
LAST = 0x10FFFF
TOKEN = re.compile(
    r"(?P<blank>(?:[ \t]|\#[^\r\n]*)+)|(?P<line>\r\n?|\n)|(?P<define>::=)|(?P<name>[A-Za-z0-9-]+)"
    r'|"(?P<literal>(?:[^"\\]|\\.)*)"|\[(?P<chars>(?:[^\]\\]|\\.)*)\]|(?P<any>\.)'
    r"|(?P<open>\()|(?P<close>\))|(?P<or>\|)|(?P<repeat>[*+?]|\{\s*\d+\s*(?:,\s*\d*\s*)?\})",
    re.DOTALL,
)
NONE = re.compile(r"\{\s*0+\s*(?:,\s*0+\s*)?\}")  # times, which llguidance's Lark can't say
CHARACTER = re.compile(
    r'\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([trn"\\\[\]-]))|([^\\])',
    re.DOTALL,
)
CONTROLS = {"t": "\t", "r": "\r", "n": "\n"}
UNEXPECTED = {
    '"': "the literal doesn't end",
    "[": "the class doesn't end",
    "{": "a count like {2}, {2,} or {2,5} is expected",
    **dict.fromkeys("<!", "tokens by name or number are not supported; write characters"),
}

Parts = list[str | int]  # Lark; a number is a rule's


def read_gbnf(text: str) -> Grammar:
    """The grammar of a GBNF text. Raises InvalidModelError that names the line."""
    if len(text) > MAX_TEXT:
        raise InvalidModelError(f"the grammar has {len(text)} characters; {MAX_TEXT} are read")
    reader = _Reader(text)
    reader.read()
    words = tuple(word.encode() for word in list(reader.words)[:MAX_WORDS])
    return checked(LLMatcher.grammar_from_lark(_lark(reader.rules)), "grammar", words)


def _lark(rules: dict[int, Parts]) -> str:
    """Names in capitals are lexemes."""
    name = "R{}" if _is_regular(rules) else "r{}"
    lines = [f"start: {name.format(0)}\n"]
    for number, parts in rules.items():
        body = " ".join(part if isinstance(part, str) else name.format(part) for part in parts)
        lines.append(f"{name.format(number)}: {body}\n")
    return "".join(lines)


def _is_regular(rules: dict[int, Parts]) -> bool:
    """Whether the rules can be written out as one regular expression, and not a vast one."""
    uses = {number: [p for p in parts if isinstance(p, int)] for number, parts in rules.items()}
    sizes: dict[int, int] = {}
    try:
        for number in graphlib.TopologicalSorter(uses).static_order():
            sizes[number] = len(rules[number]) + sum(sizes[used] for used in uses[number])
    except graphlib.CycleError:
        return False
    return sizes[0] <= MAX_REGULAR


@dataclass
class _Reader:
    """Reads rules; at is where the token, of that kind, ends. words are the literals."""

    text: str
    at: int = 0
    kind: str = ""
    token: str = ""
    numbers: dict[str, int] = field(default_factory=lambda: {"root": 0})
    rules: dict[int, Parts] = field(default_factory=dict)
    words: dict[str, None] = field(default_factory=dict)
    depth: int = 0  # rules and parentheses so far

    def read(self) -> None:
        self.advance()
        self.skip_lines()
        while self.kind:
            self.rule()
            self.skip_lines()
        for name, number in self.numbers.items():
            if number not in self.rules:
                raise InvalidModelError(
                    f"the grammar uses the rule {name}, which it doesn't define"
                )

    def fail(self, problem: str) -> InvalidModelError:
        line = self.text.count("\n", 0, self.at) + 1
        return InvalidModelError(f"the grammar's line {line}: {problem}")

    def advance(self) -> None:
        """Read a token; kind is empty at the end."""
        self.kind = "blank"
        while self.kind == "blank":
            if self.at == len(self.text):
                self.kind = self.token = ""
                return
            match = TOKEN.match(self.text, self.at)
            if match is None or match.lastgroup is None:
                character = self.text[self.at]
                raise self.fail(UNEXPECTED.get(character, f"unexpected {character!r}"))
            self.at, self.kind = match.end(), match.lastgroup
            self.token = match[self.kind]

    def skip_lines(self) -> None:
        while self.kind == "line":
            self.advance()

    def rule(self) -> None:
        """NAME ::= alternatives, and the line's end."""
        name = self.token
        if self.kind != "name":
            raise self.fail("a rule's name is expected")
        self.advance()
        if self.kind != "define":
            raise self.fail(f"::= is expected behind {name}")
        number = self.rule_number(name)
        if number in self.rules:
            raise self.fail(f"the rule {name} is defined twice")
        self.advance()
        self.skip_lines()
        self.rules[number] = self.alternatives(0)
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise self.fail(f"rules and parentheses up to here are more than {MAX_DEPTH}")
        if self.kind not in ("", "line"):
            raise self.fail(f"unexpected {self.token!r}")

    def rule_number(self, name: str) -> int:
        return self.numbers.setdefault(name, len(self.numbers))

    def alternatives(self, depth: int) -> Parts:
        """Inside parentheses lines don't count."""
        parts = self.sequence(depth)
        while self.kind == "or":
            self.advance()
            self.skip_lines()
            parts += ["|", *self.sequence(depth)]
        return parts

    def sequence(self, depth: int) -> Parts:
        parts: Parts = []
        last: Parts = []
        while True:
            if self.kind == "repeat":
                if not last:
                    raise self.fail("there is nothing to repeat")
                grouped = last if last[-1] == ")" else ["(", *last, ")"]
                last = [*grouped[:-1], ")" + self.count()] if not NONE.match(self.token) else ['""']
            elif (item := self.item(depth)) is not None:
                parts += last
                last = item
            else:
                return parts + last or ['""']
            self.advance()
            if depth:
                self.skip_lines()

    def count(self) -> str:
        """The token's repetition as Lark has it."""
        numbers = [int(number) for number in re.findall(r"\d{1,9}", self.token)]
        if max(numbers, default=0) > MAX_REPEAT:
            raise self.fail(f"it repeats something more than {MAX_REPEAT} times")
        if len(numbers) == 2 and numbers[1] < numbers[0]:
            raise self.fail(f"{numbers[1]} is less than {numbers[0]}")
        return re.sub(r"\s", "", self.token)

    def item(self, depth: int) -> Parts | None:
        if self.kind == "name":
            return [self.rule_number(self.token)]
        if self.kind == "any":
            return [_class([(1, LAST)])]
        if self.kind == "chars":
            return [self.char_class(self.token)]
        if self.kind == "literal":
            codes = [code for code, _ in self.characters(self.token)]
            if any(map(_is_excluded, codes)):
                raise self.fail("no character of a text is NUL or half a surrogate pair")
            self.words["".join(map(chr, codes))] = None
            return ["(", *(_class([(code, code)]) for code in codes), ")"] if codes else ['""']
        return self.group(depth) if self.kind == "open" else None

    def group(self, depth: int) -> Parts:
        if depth >= MAX_NESTING:
            raise self.fail(f"parentheses nest deeper than {MAX_NESTING}")
        self.depth += 1
        self.advance()
        self.skip_lines()
        parts = self.alternatives(depth + 1)
        if self.kind != "close":
            raise self.fail("a ) is missing")
        return ["(", *parts, ")"]

    def char_class(self, inside: str) -> str:
        negated = inside.startswith("^")
        characters = self.characters(inside[negated:])
        ranges: list[tuple[int, int]] = []
        at = 0
        while at < len(characters):
            low = high = characters[at][0]
            if at + 2 < len(characters) and characters[at + 1] == (ord("-"), True):
                high = characters[at + 2][0]
                at += 2
            at += 1
            if high < low:
                raise self.fail("a range's end is before its start")
            if negated or not (_is_excluded(low) and _is_excluded(high)):
                ranges.append((low, high))
        if negated:
            ranges = _others(ranges)
        if not ranges:
            raise self.fail("there is no character in the class")
        return _class(ranges)

    def characters(self, inside: str) -> list[tuple[int, bool]]:
        """Each character's code, and whether it stands as it is."""
        characters = []
        at = 0
        while at < len(inside):
            character = CHARACTER.match(inside, at)
            if not character:
                raise self.fail(f"unknown escape {inside[at : at + 2]}")
            *numbers, escaped, plain = character.groups()
            if number := next(filter(None, numbers), None):
                characters.append((min(int(number, 16), LAST), False))
            else:
                letter = plain or CONTROLS.get(escaped, escaped)
                characters.append((ord(letter), plain is not None))
            at = character.end()
        return characters


def _is_excluded(code: int) -> bool:
    """Whether no text has that character."""
    return code == 0 or 0xD800 <= code <= 0xDFFF


def _others(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The characters of no range."""
    others, start = [], 1
    for low, high in sorted([*ranges, (0xD800, 0xDFFF), (LAST + 1, LAST + 1)]):
        if start < low:
            others.append((start, low - 1))
        start = max(start, high + 1)
    return others


def _class(ranges: list[tuple[int, int]]) -> str:
    """A lexeme of one character."""
    return "/[" + "".join(f"\\u{{{low:x}}}-\\u{{{high:x}}}" for low, high in ranges) + "]/"
