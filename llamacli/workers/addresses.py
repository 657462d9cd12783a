"""Workers' addresses and the shares of a model, as the command line writes them."""

import math
import re
from typing import NamedTuple

from llamacli.errors import UsageError

PORT = 50052  # llama.cpp's rpc-server has it, too
TIMEOUT = 300.0  # seconds that a worker may take for its part of one step
FORM = re.compile(r"(\[[0-9A-Fa-f:.%\w]+\]|[^\s:/\\\[\]]+)(?::(\d{1,5}))?")


class Address(NamedTuple):
    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_workers(text: str) -> tuple[Address, ...]:
    """The addresses of HOST:PORT,HOST:PORT; without a port it is PORT. Raises UsageError."""
    addresses = [_parse(part.strip()) for part in text.split(",") if part.strip()]
    if len(set(addresses)) < len(addresses):
        raise UsageError(f"--workers names one of {text} twice")
    return tuple(addresses)


def parse_split(text: str) -> tuple[float, ...]:
    """The numbers of 3,1: this machine's part and each worker's. Raises UsageError."""
    try:
        parts = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--split is {text!r}; give numbers, as 3,1") from None
    if not all(math.isfinite(part) and part >= 0 for part in parts) or not sum(parts):
        raise UsageError(f"--split is {text!r}; give parts of at least 0, not all of them 0")
    return parts


def _parse(text: str) -> Address:
    matched = FORM.fullmatch(text)
    if matched is None or not 1 <= (port := int(matched[2] or PORT)) <= 65535:
        raise UsageError(f"{text!r} is no worker's address; give HOST:PORT")
    return Address(matched[1].strip("[]"), port)
