"""What kinds of JSON values a schema is about, and whether two schemas can share one."""

import json
from collections.abc import Mapping
from typing import Any

TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
MAX_NESTING = 100
MAX_MEMBERS = 3  # levels of members that are looked at to tell two schemas apart


def written(value: Any) -> str:
    """JSON on one line."""
    return json.dumps(value, ensure_ascii=False)


def is_kind(value: Any, kind: str) -> bool:
    if kind in ("integer", "number"):
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return kind == "number" or float(value).is_integer()
    types = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}
    return isinstance(value, types[kind])


def disjoint(a: Any, b: Any, root: Any, depth: int = 0) -> bool:
    """Whether it is plain that no value matches both."""
    a, b = _resolved(a, root), _resolved(b, root)
    if not isinstance(a, dict) or not isinstance(b, dict) or depth > MAX_MEMBERS:
        return False
    if (one := _constants(a)) is not None and (two := _constants(b)) is not None:
        return not {_same(v) for v in one} & {_same(v) for v in two}
    kinds_a, kinds_b = _types(a), _types(b)
    if not kinds_a & kinds_b:
        return True
    if kinds_a & kinds_b != {"object"}:
        return False
    shared = set(a.get("required", [])) & set(b.get("required", []))
    members_a, members_b = a.get("properties", {}), b.get("properties", {})
    return any(
        disjoint(members_a[name], members_b[name], root, depth + 1)
        for name in shared
        if name in members_a and name in members_b
    )


def _same(value: Any) -> str:
    """A text that values have in common where JSON Schema takes them for equal, as 1 and 1.0."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, list):
        return "[" + ",".join(map(_same, value)) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{written(k)}:{_same(value[k])}" for k in sorted(value)) + "}"
    return written(value)


def resolve(root: Any, reference: str) -> Any:
    """What a reference inside the schema (#/…) points to; None where there is nothing."""
    found = root
    for part in reference.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(found, list) and key.isdigit() and int(key) < len(found):
            found = found[int(key)]
        elif isinstance(found, dict) and key in found:
            found = found[key]
        else:
            return None
    return found


def _resolved(schema: Any, root: Any) -> Any:
    for _ in range(MAX_NESTING):
        if not isinstance(schema, dict) or not isinstance(schema.get("$ref"), str):
            break
        schema = resolve(root, schema["$ref"])
    return schema


def _constants(schema: Mapping[str, Any]) -> list[Any] | None:
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    return values if isinstance(values, list) else None


def _types(schema: Mapping[str, Any]) -> set[str]:
    if (values := _constants(schema)) is not None:
        return {kind for kind in TYPES for value in values if is_kind(value, kind)}
    named = schema.get("type", list(TYPES))
    kinds = {named} if isinstance(named, str) else set(named) if isinstance(named, list) else set()
    return kinds | ({"integer", "number"} if kinds & {"integer", "number"} else set())
