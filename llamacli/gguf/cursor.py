"""A position in a mapped file that never gets beyond its end, whatever lengths the file claims."""

import mmap
from pathlib import Path
from struct import Struct, error as StructError  # noqa: N812
from typing import Any, NoReturn

from llamacli.errors import InvalidModelError
from llamacli.gguf.contents import U64

MAX_TEXT = 64 << 20  # bytes of keys and of values that are texts


class HeaderError(InvalidModelError):
    """A fault of a header; position is how far it had been read, in bytes."""

    def __init__(self, fault: str, path: Path, position: int) -> None:
        super().__init__(fault, file=path)
        self.position = position


class Cursor:
    """Steps through a file's bytes; each step is held against its end, and raises HeaderError."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path, self.data, self.size, self.position = path, data, len(data), 0
        self.text = 0  # bytes of text read

    def check_count(self, count: int, most: int, nbytes: int, what: str) -> None:
        """Refuse more than that of what takes nbytes or more each in the rest of the file."""
        if count > (self.size - self.position) // nbytes:
            self.fail(f"it claims {count} {what}, more than the file can hold")
        if count > most:
            self.fail(f"it has {count} {what}; {most} can be read")

    def fail(self, what: str) -> NoReturn:
        raise HeaderError(what, self.path, self.position)

    def take(self, nbytes: int, what: str) -> int:
        """Step over nbytes and give where they start."""
        start = self.position
        if nbytes > self.size - start:
            self.position = self.size
            self.fail(f"the file ends within {what} ({nbytes} bytes at {start} of {self.size})")
        self.position = start + nbytes
        return start

    def unpack(self, form: Struct, what: str) -> Any:
        return form.unpack_from(self.data, self.take(form.size, what))[0]

    def string(self, what: str, limit: int | None = None) -> str:
        length = self.unpack(U64, what)
        if limit is not None and length > limit:
            self.fail(f"{what} is {length} bytes long; {limit} are allowed")
        start = self.take(length, what)
        self.text += length
        if self.text > MAX_TEXT:
            self.fail(f"{what} is too long: at most {MAX_TEXT} bytes of text can be read")
        try:
            return str(self.data[start : self.position], "utf-8")
        except UnicodeDecodeError as error:
            self.fail(f"{what} is not UTF-8 (byte {start + error.start})")

    def skip_strings(self, count: int, key: str) -> None:
        unpack, data, position = U64.unpack_from, self.data, self.position
        try:
            for _ in range(count):
                position += unpack(data, position)[0] + 8
        except (StructError, OverflowError, IndexError):
            position = self.size + 1
        self.position = position
        if position > self.size:
            self.fail(f"the file ends within {key}")
