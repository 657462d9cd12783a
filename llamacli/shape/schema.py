"""JSON Schema as llguidance takes it; what it would pass over is refused by its JSON pointer.

An answer may have less than the schema accepts: members come in the order of `properties`, an
object that names properties gets no others, numbers have as many digits as a double keeps, and JSON
is written on one line with a blank behind commas and colons.
"""

import json
import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from urllib.parse import quote, unquote

from llguidance import LLMatcher

from llamacli.errors import InvalidModelError
from llamacli.shape.grammar import Grammar, Refused, checked, fault
from llamacli.shape.schema_values import (
    MOST,
    NUMBER,
    RANGES,
    TYPES,
    check_values,
    kinds_of,
    refusal,
    within_digits,
)

MAX_TEXT = 1 << 20
MAX_NESTING = 64
MAX_SCHEMAS = 10_000
MAX_TARGETS = 500  # of references: llguidance follows them by recursion
MAX_BLAMED = 200  # parts that are tried for what is wrong
FRACTION = 6  # digits behind those that a number's bounds have, so that none is rounded onto them
MOST_FRACTION = 9  # that llguidance takes
WRITTEN: Any = {"item_separator": ", ", "key_separator": ": ", "whitespace_flexible": False}

# Words that say nothing about which values are valid.
REMARKS = {
    *("$schema", "$id", "$comment", "$anchor", "$defs", "definitions", "title", "description"),
    *("default", "examples", "deprecated", "readOnly", "writeOnly"),
}
LISTS = {"anyOf", "oneOf", "allOf", "prefixItems"}
MAPPINGS = {"properties", "patternProperties", "$defs", "definitions"}
VALUES = {"enum", "const", "default", "examples"}  # that are no schemas
COMBINING = {"$ref", "enum", "const", "anyOf", "oneOf", "allOf"}
# llguidance's own have leap seconds and the year 0, which many readers refuse. February ends with
# the 28th: an expression that knows leap years would be long.
DATE = (
    r"[0-9]{3}[1-9]-(((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01]))"
    r"|((0[469]|11)-(0[1-9]|[12][0-9]|30))|(02-(0[1-9]|1[0-9]|2[0-8])))"
)
TIME = (
    r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
)
PATTERNS = {"date": f"^({DATE})$", "time": f"^({TIME})$", "date-time": f"^({DATE}T{TIME})$"}
FORMATS = {*PATTERNS, "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid"}


def read_schema(text: str) -> Grammar:
    """The grammar of a JSON Schema. Raises InvalidModelError that names the part and why."""
    if len(text) > MAX_TEXT:
        raise InvalidModelError(f"the schema has {len(text)} characters; {MAX_TEXT} are read")
    try:
        schema = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidModelError(f"the schema is not JSON: {error}") from None
    reader = _Reader()
    read = reader.schema(schema, "#", alone=True)
    for at, target in reader.references.items():
        if target not in reader.schemas:
            raise refusal(f"{at}/$ref", f"there is no schema at {target}")
    if len(set(reader.references.values())) > MAX_TARGETS:
        raise refusal("#", f"its references have more than {MAX_TARGETS} targets")
    multiples = [at for at, part in reader.schemas.items() if "multipleOf" in part]
    if reader.merges and len(multiples) > 1:
        raise refusal(f"{multiples[1]}/multipleOf", "one of several in schemas that are merged")
    for schema in reader.schemas.values():
        if not reader.merges:
            _close(schema)
            _narrow(schema)
        _include(schema)
    try:
        return checked(_grammar(read), "schema")
    except Refused as refused:
        raise _blame(reader, refused.problem) from None
    except (ValueError, RecursionError):
        raise refusal("#", "it has a number, text or value that is out of bounds") from None


def _grammar(schema: Any) -> str:
    return LLMatcher.grammar_from_json_schema(schema, overrides=WRITTEN)


@dataclass
class _Reader:
    """schemas are those that were read, by their pointers, as llguidance gets them; merges says
    that a value has to match two of them at once."""

    schemas: dict[str, dict[str, Any]] = field(default_factory=dict)
    references: dict[str, str] = field(default_factory=dict)
    merges: bool = False

    def schema(self, schema: Any, at: str, *, alone: bool) -> dict[str, Any]:
        """A copy for llguidance. alone says that nothing else describes the same value."""
        if schema is True:
            schema = {}
        if not isinstance(schema, dict):
            raise refusal(at, "no value can match it" if schema is False else "not a schema")
        if at.count("/") > MAX_NESTING:
            raise refusal(at, f"it nests deeper than {MAX_NESTING}")
        if len(self.schemas) >= MAX_SCHEMAS:
            raise refusal(at, f"it is one of more than {MAX_SCHEMAS} schemas")
        normal = self.schemas[at] = dict(schema)
        self.words(schema, at, alone)
        for word in LISTS & set(schema):
            if not isinstance(schema[word], list) or not schema[word]:
                raise refusal(f"{at}/{word}", "not a list of schemas")
            one = alone and (word != "allOf" or len(schema[word]) == 1)
            self.merges |= word == "allOf" and not one
            normal[word] = [
                self.schema(part, f"{at}/{word}/{i}", alone=one or word == "prefixItems")
                for i, part in enumerate(schema[word])
            ]
        for word in MAPPINGS & set(schema):
            if not isinstance(schema[word], dict):
                raise refusal(f"{at}/{word}", "not an object of schemas")
            normal[word] = {
                name: self.part(part, f"{at}/{word}/{_escaped(name)}")
                for name, part in schema[word].items()
            }
        for word in {"items", "additionalProperties"} & set(schema):
            if isinstance(schema[word], list):
                raise refusal(f"{at}/{word}", "a list of schemas is prefixItems")
            normal[word] = self.part(schema[word], f"{at}/{word}")
        return normal

    def part(self, schema: Any, at: str) -> dict[str, Any] | bool:
        """A schema that may be false: there is nothing then."""
        return False if schema is False else self.schema(schema, at, alone=True)

    def words(self, schema: Mapping[str, Any], at: str, alone: bool) -> None:
        """Check the words of one schema, and rewrite them in its copy where that is safer."""
        words = set(schema) - REMARKS
        combined = words & COMBINING
        if "$id" in schema and at != "#":
            raise refusal(f"{at}/$id", "not supported here")
        self.merges |= bool(combined - {"enum", "const"}) and len(words) > 1
        kinds = kinds_of(schema.get("type", []), at)
        if "type" in schema:
            allowed = {"type", *COMBINING}.union(*(TYPES[kind] for kind in kinds))
            if extra := sorted(words - allowed):
                raise refusal(f"{at}/{extra[0]}", f"not supported for {' or '.join(kinds)}")
        elif words and not combined and alone:
            # Words of one kind of value leave all the others free; say which is meant.
            meant = [kind for kind, known in TYPES.items() if words & known]
            raise refusal(at, f'give it a "type"{f", as {meant[0]}" if meant else ""}')
        for word in sorted(words - {"type"} - COMBINING):
            if not any(word in known for known in TYPES.values()):
                raise refusal(f"{at}/{word}", "not supported here")
        if "$ref" in schema:
            self.references[at] = _target(schema["$ref"], at)
        normal = self.schemas[at]
        within_digits(normal)
        check_values(normal, kinds, at)
        if (form := normal.get("format")) is not None:
            numbers = {"integer", "number"} & set(kinds) and "string" not in kinds
            known = RANGES if numbers else FORMATS
            if form not in known:
                raise refusal(f"{at}/format", f"only {', '.join(sorted(known))} are supported")
            if form in PATTERNS:
                if "pattern" in schema:
                    raise refusal(f"{at}/pattern", f"not supported beside the format {form}")
                normal["pattern"] = PATTERNS[form]
            if form in RANGES and not {"enum", "const"} & words:
                least, most = RANGES[form]
                if least > -MOST:
                    normal["minimum"] = max(normal.get("minimum", least), least)
                if most < MOST:
                    normal["maximum"] = min(normal.get("maximum", most), most)
            if form in {*PATTERNS, *RANGES}:
                del normal["format"]


def _target(reference: Any, at: str) -> str:
    """The pointer of a reference inside the schema."""
    if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
        raise refusal(f"{at}/$ref", "only references inside the file (#/…) are followed")
    return unquote(reference)


def _narrow(schema: dict[str, Any]) -> None:
    """Leave out numbers that a double can't tell apart, or that a model would never end."""
    kinds = kinds_of(schema.get("type", []), "")
    if not {"integer", "number"} & set(kinds) or {"enum", "const", "multipleOf"} & set(schema):
        return
    bounds = [schema[word] for word in NUMBER & set(schema)]
    fraction = max(map(_fraction, bounds), default=MOST_FRACTION)
    if {"minimum", "exclusiveMinimum"}.isdisjoint(schema):
        schema["minimum"] = -MOST
    if {"maximum", "exclusiveMaximum"}.isdisjoint(schema):
        schema["maximum"] = MOST
    if "number" in kinds and fraction <= MOST_FRACTION:
        schema["multipleOf"] = float(f"1e-{fraction}")


def _include(schema: dict[str, Any]) -> None:
    """Exclusive bounds as inclusive ones a last digit further in.

    Else llguidance takes 0 for a number above 0 where none of 1 or more is allowed.
    """
    bounds = {"exclusiveMinimum": ("minimum", max, 1), "exclusiveMaximum": ("maximum", min, -1)}
    for word, (inclusive, nearer, sign) in bounds.items():
        if word in schema:
            bound = schema.pop(word)
            within = bound + sign * 10.0 ** -_fraction(bound)
            if within == bound:
                within = math.nextafter(bound, sign * math.inf)
            schema[inclusive] = nearer(within, schema.get(inclusive, within))


def _fraction(bound: float) -> int:
    """Digits behind the point that numbers beside a bound have."""
    return max(0, -int(Decimal(str(bound)).as_tuple().exponent)) + FRACTION


def _close(schema: dict[str, Any]) -> None:
    """No members but those that it names."""
    if "properties" in schema and not {"additionalProperties", "patternProperties"} & set(schema):
        others: dict[str, Any] = {name: {} for name in schema.get("required", [])}
        schema["properties"] = schema["properties"] | (others | schema["properties"])
        schema["additionalProperties"] = False


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number that JSON has")


def _blame(reader: _Reader, problem: str) -> InvalidModelError:
    """Name the inmost part that llguidance doesn't take by itself, and what it says against it."""
    whole = {"whole": moved(reader.schemas["#"], "#/$defs/whole")}

    def problem_of(part: Any) -> str:
        return fault(_grammar({**part, "$defs": whole}))

    at = "#"
    for inner in list(reader.schemas)[1:MAX_BLAMED]:
        if inner.startswith(f"{at}/"):
            blamed = problem_of({"$ref": "#" + quote(f"/$defs/whole{inner[1:]}")})
            at, problem = (inner, blamed) if blamed else (at, problem)
    if "oneOf" in problem and "oneOf" in (part := moved(reader.schemas[at], "#/$defs/whole")):
        counts = range(1, len(part["oneOf"]))
        first = bisect_left(counts, 1, key=lambda n: len(problem_of({"oneOf": part["oneOf"][:n]})))
        return refusal(f"{at}/oneOf/{first}", "a value might match another one too; anyOf?")
    return refusal(at + _word(problem), problem)


def moved(schema: Any, to: str) -> Any:
    """A schema whose references find what it has where it stands at the pointer to in another."""
    if isinstance(schema, list):
        return [moved(one, to) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found: dict[str, Any] = {}
    for word, value in schema.items():
        if word == "$ref" and isinstance(value, str) and value.startswith("#"):
            found[word] = to + value[1:]
        elif word in MAPPINGS and isinstance(value, dict):  # of schemas, by any names
            found[word] = {name: moved(one, to) for name, one in value.items()}
        else:
            found[word] = value if word in VALUES else moved(value, to)
    return found


def _word(problem: str) -> str:
    """The word that a problem is about, as far as llguidance's message tells."""
    words = (("regular expression", "/pattern"), ("multipleOf", "/multipleOf"))
    return next((word for sign, word in words if sign in problem), "")
