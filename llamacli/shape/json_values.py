"""Grammars of JSON values, written on one line with a blank behind commas and colons."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from llamacli.shape.grammar import LAST, Builder, Items, Ref, chars
from llamacli.shape.numeric import DIGIT, DIGITS, NOT_ZERO
from llamacli.shape.schema_kinds import TYPES

PLAIN = chars([(0x20, 0x21), (0x23, 0x5B), (0x5D, 0x7E), (0xA0, LAST)])  # in a JSON string


@dataclass
class JsonValues:
    """Adds rules to builder; shared has those that stand for all values of a kind."""

    builder: Builder
    shared: dict[str, Ref] = field(default_factory=dict)

    def anything(self) -> Items:
        if "" not in self.shared:
            self.shared[""] = rule = self.builder.reserve("value")
            kinds = [kind for kind in TYPES if kind != "integer"]
            self.builder.define(rule, [(self.plain(kind),) for kind in kinds])
        return (self.shared[""],)

    def plain(self, kind: str) -> Ref:
        """Any value of that kind."""
        if kind not in self.shared:
            self.shared[kind] = rule = self.builder.reserve(kind)
            make: dict[str, Callable[[], list[Items]]] = {
                "object": lambda: [self.mapping(self.anything())],
                "array": lambda: [self.sequence(self.anything(), 0, None)],
                "string": lambda: [self.quoted(self.characters(0, None))],
                "number": self.any_number,
                "integer": lambda: [self.any_integer()],
                "boolean": lambda: [self.builder.text("true"), self.builder.text("false")],
                "null": lambda: [self.builder.text("null")],
            }
            self.builder.define(rule, make[kind]())
        return self.shared[kind]

    def any_integer(self) -> Items:
        minus = self.builder.repeat(self.builder.text("-"), 0, 1)
        digits = (NOT_ZERO, *self.builder.repeat((DIGIT,), 0, DIGITS - 1))
        return minus + self.builder.choice([self.builder.text("0"), digits])

    def any_number(self) -> list[Items]:
        text, repeat = self.builder.text, self.builder.repeat
        fraction = text(".") + repeat((DIGIT,), 1, 15)
        sign = repeat((chars([(43, 43), (45, 45)]),), 0, 1)
        exponent = (chars([(69, 69), (101, 101)]), *sign, *repeat((DIGIT,), 1, 2))
        return [(self.plain("integer"), *repeat(fraction, 0, 1), *repeat(exponent, 0, 1))]

    def characters(self, least: int, most: int | None) -> Items:
        if "char" not in self.shared:
            self.shared["char"] = rule = self.builder.reserve("char")
            escaped = chars([(ord(c), ord(c)) for c in '"\\/bfnrt'])
            self.builder.define(rule, [(PLAIN,), (*self.builder.text("\\"), escaped)])
        return self.builder.repeat((self.shared["char"],), least, most)

    def quoted(self, items: Items) -> Items:
        return (*self.builder.text('"'), *items, *self.builder.text('"'))

    def row(self, items: Sequence[Items], least: int, tail: Items) -> Items:
        """The first least items, or more of them, and the tail where all of them are there."""
        after = tail
        for i in range(len(items) - 1, -1, -1):
            after = (self.builder.text(", ") if i else ()) + items[i] + after
            if i >= least:
                after = self.builder.choice([after, ()])
        return self.builder.text("[") + after + self.builder.text("]")

    def sequence(self, item: Items, least: int, most: int | None) -> Items:
        text = self.builder.text
        if most == 0:
            return text("[]")
        more = None if most is None else most - 1
        inner = item + self.builder.repeat(text(", ") + item, max(least - 1, 0), more)
        inner = inner if least else self.builder.choice([inner, ()])
        return text("[") + inner + text("]")

    def mapping(self, value: Items) -> Items:
        text = self.builder.text
        member = (self.plain("string"), *text(": "), *value)
        inner = member + self.builder.repeat(text(", ") + member, 0, None)
        return text("{") + self.builder.choice([inner, ()]) + text("}")

    def members(self, members: Sequence[tuple[Items, bool]]) -> Items:
        """Each in its order, optional ones or not; a comma before all but the first there is."""
        begun: Items = ()  # what may follow once a member has been written
        fresh: Items = ()  # what may follow while none has
        for i in range(len(members) - 1, -1, -1):
            items, needed = members[i]
            here, after = items + begun, self.builder.text(", ") + items + begun
            fresh = here if needed else self.builder.choice([here, fresh], "member")
            begun = after if needed else self.builder.choice([after, begun], "member")
            if i:  # a rule of its own, or the alternatives would double with each member
                begun = self._own(begun)
                fresh = self._own(fresh)
        return fresh

    def _own(self, items: Items) -> Items:
        if len(items) < 2:
            return items
        rule = self.builder.reserve("members")
        self.builder.define(rule, [items])
        return (rule,)
