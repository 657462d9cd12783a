"""JSON Schema to a grammar whose every text is JSON that the schema accepts.

What a grammar can't express is refused by its JSON pointer. The grammar may have fewer texts than
the schema accepts: members come in the order of `properties`, an object with properties gets no
others, numbers and strings keep to reasonable lengths, and JSON is written on one line.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from llamacli.errors import InvalidModelError
from llamacli.shape.grammar import Builder, Grammar, Items, Ref
from llamacli.shape.json_values import JsonValues
from llamacli.shape.numeric import MAX_BOUND, Interval, integers, numbers
from llamacli.shape.regex import pattern_items
from llamacli.shape.schema_kinds import MAX_NESTING, TYPES, disjoint, is_kind, resolve, written

MAX_TEXT = 1 << 20
# Words that say nothing about which values are valid.
REMARKS = {
    *("$schema", "$id", "$comment", "$anchor", "$defs", "definitions", "title", "description"),
    *("default", "examples", "deprecated", "readOnly", "writeOnly"),
}
WORDS = {
    "object": {"properties", "required", "additionalProperties"},
    "array": {"items", "prefixItems", "minItems", "maxItems"},
    "string": {"minLength", "maxLength", "pattern", "format"},
    "number": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"},
    "integer": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"},
    "boolean": set(),
    "null": set(),
}
FORMATS = {
    # February ends with the 28th: a grammar that knows leap years would be long.
    "date": r"[0-9]{3}[1-9]-(((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01]))"
    r"|((0[469]|11)-(0[1-9]|[12][0-9]|30))|(02-(0[1-9]|1[0-9]|2[0-8])))",
    "time": r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?"
    r"(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])",
    "uuid": r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
    "ipv4": r"((25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])\.){3}"
    r"(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])",
}
FORMATS["date-time"] = f"{FORMATS['date']}T{FORMATS['time']}"


def read_schema(text: str) -> Grammar:
    """The grammar of a JSON Schema. Raises InvalidModelError that names the part and why."""
    if len(text) > MAX_TEXT:
        raise InvalidModelError(f"the schema has {len(text)} characters; {MAX_TEXT} are read")
    try:
        schema = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidModelError(f"the schema is not JSON: {error}") from None
    builder = Builder()
    root = builder.reserve("root")
    builder.define(root, [_Converter(schema, builder, JsonValues(builder)).value(schema, "#", 0)])
    return builder.finish()


@dataclass
class _Converter:
    """at is always the JSON pointer of what is being read."""

    root: Any
    builder: Builder
    values: JsonValues
    references: dict[str, Ref] = field(default_factory=dict)

    def value(self, schema: Any, at: str, depth: int) -> Items:
        if depth > MAX_NESTING:
            raise _refusal(at, f"it nests deeper than {MAX_NESTING}")
        if schema is True or schema == {}:
            return self.values.anything()
        if not isinstance(schema, dict):
            raise _refusal(at, "no value can match it" if schema is False else "not a schema")
        words = set(schema) - REMARKS
        combining: dict[str, Callable[..., Items]] = {
            "$ref": self.reference, "enum": self.constants, "const": self.constants,
            "anyOf": self.union, "oneOf": self.union, "allOf": self.single,
        }  # fmt: skip
        for word, make in combining.items():
            if word in words:
                return make(word, schema, words - {word}, at, depth)
        kinds = self.kinds(schema, words, at)
        allowed = {"type"}.union(*(WORDS[kind] for kind in kinds))
        if extra := sorted(words - allowed):
            raise _refusal(f"{at}/{extra[0]}", "not supported here")
        return self.builder.choice([self.of_kind(kind, schema, at, depth) for kind in kinds])

    def kinds(self, schema: Mapping[str, Any], words: set[str], at: str) -> list[str]:
        named = schema.get("type")
        if (
            named is None
        ):  # words of one kind of value leave all the others free; say which is meant
            meant = [kind for kind in TYPES if words & WORDS[kind]]
            raise _refusal(f"{at}", f'give it a "type"{f", as {meant[0]}" if meant else ""}')
        kinds = named if isinstance(named, list) else [named]
        if not kinds or not all(kind in TYPES for kind in kinds):
            raise _refusal(f"{at}/type", f"not one of {', '.join(TYPES)}")
        return list(dict.fromkeys(kinds))

    def of_kind(self, kind: str, schema: Mapping[str, Any], at: str, depth: int) -> Items:
        if not WORDS[kind] & set(schema):
            return (self.values.plain(kind),)
        if kind in ("integer", "number"):
            return self.number(kind, schema, at)
        if kind == "string":
            return self.string(schema, at)
        return (self.object if kind == "object" else self.array)(schema, at, depth)

    # Schemas that combine others

    def reference(
        self, word: str, schema: Mapping[str, Any], others: set[str], at: str, depth: int
    ) -> Items:
        self.alone(word, others, at)
        target = schema[word]
        if not isinstance(target, str) or not (target == "#" or target.startswith("#/")):
            raise _refusal(f"{at}/$ref", "only references inside the file (#/…) are followed")
        if target not in self.references:
            found = resolve(self.root, target)
            if found is None:
                raise _refusal(f"{at}/$ref", f"there is nothing at {target}")
            self.references[target] = rule = self.builder.reserve(target)
            self.builder.define(rule, [self.value(found, target, depth + 1)])
        return (self.references[target],)

    def constants(
        self, word: str, schema: Mapping[str, Any], others: set[str], at: str, depth: int
    ) -> Items:
        self.alone(word, others - {"type"}, at)
        values = [schema[word]] if word == "const" else schema[word]
        if not isinstance(values, list) or not values:
            raise _refusal(f"{at}/enum", "not a list of values")
        if "type" in others:
            kinds = self.kinds(schema, set(), at)
            values = [value for value in values if any(is_kind(value, kind) for kind in kinds)]
        if not values:
            raise _refusal(f"{at}/{word}", "no value of it is of that type")
        if depth > MAX_NESTING:
            raise _refusal(at, f"it nests deeper than {MAX_NESTING}")
        return self.builder.choice([self.builder.text(written(value)) for value in values], word)

    def union(
        self, word: str, schema: Mapping[str, Any], others: set[str], at: str, depth: int
    ) -> Items:
        """oneOf is anyOf where no value matches two: types differ, or a constant member does."""
        self.alone(word, others, at)
        options = schema[word]
        if not isinstance(options, list) or not options:
            raise _refusal(f"{at}/{word}", "not a list of schemas")
        found = [self.value(one, f"{at}/{word}/{i}", depth + 1) for i, one in enumerate(options)]
        for i, option in enumerate(options if word == "oneOf" else ()):
            if not all(disjoint(option, other, self.root) for other in options[:i]):
                raise _refusal(f"{at}/oneOf/{i}", "a value might match another one too; anyOf?")
        return self.builder.choice(found, word)

    def single(
        self, word: str, schema: Mapping[str, Any], others: set[str], at: str, depth: int
    ) -> Items:
        self.alone(word, others, at)
        parts = schema[word]
        if not isinstance(parts, list) or len(parts) != 1:
            raise _refusal(f"{at}/allOf", "only a single schema is supported; merge them")
        return self.value(parts[0], f"{at}/allOf/0", depth + 1)

    def alone(self, word: str, others: set[str], at: str) -> None:
        if others:
            raise _refusal(f"{at}/{sorted(others)[0]}", f"not supported beside {word}")

    # Kinds of values

    def number(self, kind: str, schema: Mapping[str, Any], at: str) -> Items:
        bounds = {word: schema[word] for word in WORDS[kind] if word in schema}
        for word, bound in bounds.items():
            if isinstance(bound, bool) or not isinstance(bound, int | float):
                raise _refusal(f"{at}/{word}", "not a number")
            if not abs(bound) <= MAX_BOUND:
                raise _refusal(f"{at}/{word}", f"bounds go up to {MAX_BOUND}")
        low, low_open = _tighter(bounds.get("minimum"), bounds.get("exclusiveMinimum"), max)
        high, high_open = _tighter(bounds.get("maximum"), bounds.get("exclusiveMaximum"), min)
        make = integers if kind == "integer" else numbers
        if not (ways := make(self.builder, Interval(low, high, low_open, high_open))):
            raise _refusal(at, "its bounds leave no number, or none with few digits")
        return self.builder.choice(ways, kind)

    def string(self, schema: Mapping[str, Any], at: str) -> Items:
        if "pattern" in schema or "format" in schema:
            word = "pattern" if "pattern" in schema else "format"
            if extra := sorted((WORDS["string"] - {word}) & set(schema)):
                raise _refusal(f"{at}/{extra[0]}", f"not supported beside {word}")
            pattern = schema[word]
            if word == "format":
                if pattern not in FORMATS:
                    raise _refusal(f"{at}/format", f"only {', '.join(FORMATS)} are supported")
                pattern = f"^({FORMATS[pattern]})$"
            try:
                return self.values.quoted(pattern_items(self.builder, pattern))
            except ValueError as error:
                raise _refusal(f"{at}/pattern", str(error)) from None
        least, most = _bounds(schema, "minLength", "maxLength", at)
        return self.values.quoted(self.values.characters(least, most))

    def array(self, schema: Mapping[str, Any], at: str, depth: int) -> Items:
        least, most = _bounds(schema, "minItems", "maxItems", at)
        first = schema.get("prefixItems", [])
        if not isinstance(first, list):
            raise _refusal(f"{at}/prefixItems", "not a list of schemas")
        if isinstance(schema.get("items"), list):
            raise _refusal(f"{at}/items", "a list of schemas is prefixItems")
        given = [self.value(s, f"{at}/prefixItems/{i}", depth + 1) for i, s in enumerate(first)]
        if schema.get("items") is False or most == 0:
            most = min(len(given), len(given) if most is None else most)
            if least > most:
                raise _refusal(f"{at}/minItems", "there can't be that many items")
            return self.values.row(given[:most], least, ())
        rest = self.value(schema.get("items", True), f"{at}/items", depth + 1)
        if not given:
            return self.values.sequence(rest, least, most)
        most = None if most is None else max(most - len(given), 0)
        if schema.get("maxItems") is not None and schema["maxItems"] < len(given):
            return self.values.row(given[: schema["maxItems"]], least, ())
        separated = self.builder.text(", ") + rest
        tail = self.builder.repeat(separated, max(least - len(given), 0), most)
        return self.values.row(given, least, tail)

    def object(self, schema: Mapping[str, Any], at: str, depth: int) -> Items:
        properties, required = schema.get("properties", {}), schema.get("required", [])
        if not isinstance(properties, dict):
            raise _refusal(f"{at}/properties", "not an object of schemas")
        if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
            raise _refusal(f"{at}/required", "not a list of names")
        others = schema.get("additionalProperties", True)
        named = {name: (s, f"{at}/properties/{name}") for name, s in properties.items()}
        for name in required:
            if name not in named and others is False:
                raise _refusal(f"{at}/required", f"{name} is required and not allowed")
            named.setdefault(name, (others, f"{at}/additionalProperties"))
        if not named:
            if others is False:
                return self.builder.text("{}")
            return self.values.mapping(self.value(others, f"{at}/additionalProperties", depth + 1))
        members = []
        for name, (member, where) in named.items():
            if member is False and name not in required:
                continue
            value = self.value(member, where, depth + 1)
            members.append((self.builder.text(written(name) + ": ") + value, name in required))
        return self.builder.text("{") + self.values.members(members) + self.builder.text("}")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number that JSON has")


def _refusal(at: str, why: str) -> InvalidModelError:
    return InvalidModelError(f"the schema's {at} can't be honoured: {why}")


def _bounds(schema: Mapping[str, Any], low: str, high: str, at: str) -> tuple[int, int | None]:
    least, most = schema.get(low, 0), schema.get(high)
    for word, bound in ((low, least), (high, most)):
        if bound is not None and (type(bound) is not int or bound < 0):
            raise _refusal(f"{at}/{word}", "not a count")
    if most is not None and most < least:
        raise _refusal(f"{at}/{high}", f"less than {low}")
    return least, most


def _tighter(
    closed: float | None, opened: float | None, stricter: Callable[[float, float], float]
) -> tuple[float | None, bool]:
    """The bound that counts of an inclusive and an exclusive one, and whether it is open."""
    if opened is None or closed is None:
        return (closed, False) if opened is None else (opened, True)
    return (opened, True) if stricter(closed, opened) == opened else (closed, False)
