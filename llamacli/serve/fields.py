"""Strangers' JSON, read field by field: each is what it must be, or named with what is wrong."""

import json
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from llamacli.serve.faults import Fault, invalid
from llamacli.terminal import shortened

T = TypeVar("T")
MAX_SHOWN = 60  # characters of a wrong value


def read_json(body: bytes | bytearray) -> "Fields":
    """The object that a request's body is. Raises Fault 400 where it isn't one."""
    try:
        value = json.loads(body, parse_constant=_finite, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise Fault(400, f"the body is not JSON: {error}", code="invalid_json") from None
    if not isinstance(value, dict):
        raise Fault(400, "the body is not a JSON object", code="invalid_json")
    return Fields(value)


def _finite(number: str) -> float:
    """Neither NaN nor an infinity: JSON has none to answer with."""
    if not math.isfinite(value := float(number)):
        raise ValueError(f"{shortened(number, MAX_SHOWN)} is no number of JSON's")
    return value


class Fields:
    """An object's fields. Each is taken out once it is read; null is as if it weren't there."""

    def __init__(self, values: dict[str, Any], path: str = "") -> None:
        self.values = {name: value for name, value in values.items() if value is not None}
        self.path = path

    def where(self, name: str) -> str:
        return f"{self.path}.{name}" if self.path else name

    def take(self, name: str) -> Any:
        return self.values.pop(name, None)

    def text(self, name: str) -> str | None:
        return self._typed(name, str, "a text")

    def flag(self, name: str, usual: bool = False) -> bool:
        given = self._typed(name, bool, "true or false")
        return usual if given is None else given

    def items(self, name: str) -> list[Any] | None:
        return self._typed(name, list, "a list")

    def objects(self, name: str) -> "list[Fields] | None":
        values = self.items(name)
        return None if values is None else objects(values, self.where(name))

    def inside(self, name: str) -> "Fields | None":
        value = self._typed(name, dict, "an object")
        return None if value is None else Fields(value, self.where(name))

    def number(self, name: str, least: float, most: float) -> float | None:
        value = self.take(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise invalid(self.where(name), f"is a number, not {shown(value)}")
        return float(self._within(name, value, least, most))

    def whole(self, name: str, least: int, most: int) -> int | None:
        value = self.take(name)
        if value is None:
            return None
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise invalid(self.where(name), f"is a whole number, not {shown(value)}")
        return int(self._within(name, value, least, most))

    def one_of(self, name: str, words: Iterable[str]) -> str | None:
        value = self.text(name)
        if value is not None and value not in words:
            raise invalid(self.where(name), f"is one of {', '.join(words)}, not {shown(value)}")
        return value

    def needed(self, name: str, read: Callable[[str], T | None]) -> T:
        """What read gives of a field that must be there."""
        if (value := read(name)) is None:
            raise invalid(self.where(name), "is missing")
        return value

    def ignore(self, names: Iterable[str]) -> list[str]:
        """Take out fields that clients send and that change nothing; those that were there."""
        return [name for name in names if self.take(name) is not None]

    def end(self) -> None:
        """Raises Fault 422 where fields are left that nobody knows."""
        if self.values:
            raise invalid(self.where(min(self.values)), "is not known")

    def _typed(self, name: str, kind: type[T], called: str) -> T | None:
        value = self.take(name)
        if value is None or isinstance(value, kind):
            return value
        raise invalid(self.where(name), f"is {called}, not {shown(value)}")

    def _within(self, name: str, value: float, least: float, most: float) -> float:
        if not least <= value <= most:
            raise invalid(self.where(name), f"is {least:g} to {most:g}, not {shown(value)}")
        return value


def objects(values: Sequence[Any], where: str) -> list[Fields]:
    """A list's, each of which must be an object. Raises Fault."""
    for i, value in enumerate(values):
        if not isinstance(value, dict):
            raise invalid(f"{where}.{i}", f"is an object, not {shown(value)}")
    return [Fields(value, f"{where}.{i}") for i, value in enumerate(values)]


def shown(value: Any) -> str:
    """A wrong value as an error tells it."""
    return shortened(json.dumps(value), MAX_SHOWN)
