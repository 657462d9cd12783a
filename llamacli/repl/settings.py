"""/set: what can be changed while chatting, as text in and out."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from llamacli.chat import ChatSession
from llamacli.errors import UsageError

FREE = ("none", "default")  # words that take a limit or a seed away


@dataclass(frozen=True)
class Setting:
    """kind reads a value; optional ones may be none."""

    kind: Callable[[str], Any]
    help: str
    optional: bool = False


SETTINGS = {
    "temperature": Setting(float, "0 is greedy and reproducible"),
    "top-p": Setting(float, "choose among tokens that make up this share"),
    "top-k": Setting(int, "choose among the likeliest tokens; 0 is all"),
    "min-p": Setting(float, "leave out tokens below this share of the likeliest"),
    "repeat-penalty": Setting(float, "weigh against the last 64 tokens; 1 is off"),
    "seed": Setting(int, "the same seed gives the same answer", optional=True),
    "max-tokens": Setting(int, "end an answer after that many tokens", optional=True),
}


def value_of(session: ChatSession, name: str) -> Any:
    """A setting's value now."""
    if name == "max-tokens":
        return session.max_tokens
    return getattr(session.sampling, name.replace("-", "_"))


def change(session: ChatSession, name: str, text: str) -> None:
    """Give a setting the value that text says; raises UsageError, nothing being changed then."""
    value = _read(SETTINGS[name], name, text)
    if name != "max-tokens":
        changed: dict[str, Any] = {name.replace("-", "_"): value}
        session.sampling = replace(session.sampling, **changed)
    elif value is not None and value < 1:
        raise UsageError(f"max-tokens is {value}; give 1 or more, or none")
    else:
        session.max_tokens = value


def _read(setting: Setting, name: str, text: str) -> Any:
    if setting.optional and text.lower() in FREE:
        return None
    try:
        return setting.kind(text)
    except ValueError:
        kind = "a whole number" if setting.kind is int else "a number"
        raise UsageError(f"{name} is {kind}{' or none' * setting.optional}, not {text!r}") from None
