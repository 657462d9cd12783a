"""What stands behind the words of a JSON Schema: types, numbers, counts, lists."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from llamacli.errors import InvalidModelError

DIGITS = 15  # that a double keeps exactly
MOST = 10**DIGITS - 1  # no number that is written is larger
NUMBER = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}
COUNTS = (("minLength", "maxLength"), ("minItems", "maxItems"), ("minProperties", "maxProperties"))
TYPES: dict[str, set[str]] = {
    "object": {"properties", "required", "additionalProperties", "patternProperties", *COUNTS[2]},
    "array": {"items", "prefixItems", *COUNTS[1]},
    "string": {"pattern", "format", *COUNTS[0]},
    "number": {"format", *NUMBER},
    "integer": {"format", *NUMBER},
    "boolean": set(),
    "null": set(),
}
# The least and the most of OpenAPI's formats of numbers, and of those that Rust's types have.
RANGES = {
    **{f"int{bits}": (-(1 << bits - 1), (1 << bits - 1) - 1) for bits in (8, 16, 32)},
    **{f"uint{bits}": (0, (1 << bits) - 1) for bits in (8, 16, 32)},
    **dict.fromkeys(("int64", "int", "float", "double"), (-MOST, MOST)),
    **dict.fromkeys(("uint64", "uint"), (0, MOST)),
}


def kinds_of(named: Any, at: str) -> list[str]:
    kinds = named if isinstance(named, list) else [named]
    if not all(isinstance(kind, str) and kind in TYPES for kind in kinds):
        raise refusal(f"{at}/type", f"not one of {', '.join(TYPES)}")
    return kinds


def check_values(schema: Mapping[str, Any], kinds: Sequence[str], at: str) -> None:
    """What stands behind the words of one schema."""
    for word in NUMBER & set(schema):
        if not _is_number(schema[word]) or not abs(schema[word]) < 10**DIGITS:
            raise refusal(f"{at}/{word}", f"not a number of at most {DIGITS} digits")
    if schema.get("multipleOf", 1) <= 0:
        raise refusal(f"{at}/multipleOf", "not above 0")
    for low, high in COUNTS:
        for word in {low, high} & set(schema):
            if type(schema[word]) is not int or not 0 <= schema[word] < 1 << 20:
                raise refusal(f"{at}/{word}", "not a count")
        if schema.get(high, math.inf) < schema.get(low, 0):
            raise refusal(f"{at}/{high}", f"less than {low}")
    for word in {"pattern", "format"} & set(schema):
        if not isinstance(schema[word], str):
            raise refusal(f"{at}/{word}", "not a text")
    values = schema.get("enum", [schema.get("const")])
    if not isinstance(values, list) or not values:
        raise refusal(f"{at}/enum", "not a list of values")
    listed = next((word for word in ("enum", "const") if word in schema), None)
    if listed and kinds and not any(_is_kind(v, kind) for v in values for kind in kinds):
        raise refusal(f"{at}/{listed}", "no value of it is of that type")
    names = schema.get("required", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise refusal(f"{at}/required", "not a list of names")
    closed = schema.get("additionalProperties") is False and "patternProperties" not in schema
    missing = [name for name in names if closed and name not in schema.get("properties", {})]
    if missing:
        raise refusal(f"{at}/required", f"{missing[0]} is required and not allowed")


def within_digits(schema: dict[str, Any]) -> None:
    """Bring bounds in that leave more numbers free than can be written: 2**53 - 1, say."""
    for low in {"minimum", "exclusiveMinimum"} & set(schema):
        if _is_number(schema[low]) and schema[low] < -MOST:
            schema[low] = -MOST
    for high in {"maximum", "exclusiveMaximum"} & set(schema):
        if _is_number(schema[high]) and schema[high] > MOST:
            schema[high] = MOST


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_kind(value: Any, kind: str) -> bool:
    if kind in ("integer", "number"):
        return _is_number(value) and (kind == "number" or float(value).is_integer())
    types = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}
    return isinstance(value, types[kind])


def refusal(at: str, why: str) -> InvalidModelError:
    return InvalidModelError(f"the schema's {at} can't be honoured: {why}")
