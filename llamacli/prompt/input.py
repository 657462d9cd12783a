"""What a prompt is made of: an instruction, texts from stdin and files, and how they are joined."""

import sys
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

from llamacli.errors import DoesNotFitError, UsageError, reading
from llamacli.prompt.messages import Message
from llamacli.system import WINDOWS, alarm
from llamacli.terminal import notice

if TYPE_CHECKING:
    from llamacli.engine import Vocabulary

MAX_BYTES = 256 << 20  # beyond any context by far; a wrong file is told instead of read for minutes
LONG = 5.0  # seconds of waiting for stdin after which that is told
CUT = "\n[...]\n"  # stands where the middle of a text was taken out

Cut = Literal["head", "middle", "tail"]
Errors = Literal["strict", "replace"]


@dataclass(frozen=True)
class Text:
    """A text and where it came from."""

    name: str
    text: str


@dataclass(frozen=True)
class Input:
    """One prompt's parts: the instruction, which may be empty, and texts to apply it to."""

    instruction: str
    texts: tuple[Text, ...] = ()

    def joined(self) -> str:
        """The instruction, a blank line, the text.

        Several texts each get a line `==> NAME <==` above them, as head and tail write it, and a
        blank line between them.
        """
        texts = [text.text for text in self.texts]
        if len(texts) > 1:
            texts = [f"==> {text.name} <==\n{text.text.rstrip()}" for text in self.texts]
        return "\n\n".join([self.instruction, *texts] if self.instruction else texts)

    def messages(self, system: str | None = None) -> list[Message]:
        """The conversation that it is."""
        asked = [{"role": "user", "content": self.joined()}]
        return asked if system is None else [{"role": "system", "content": system}, *asked]


def gather(
    instruction: str | None,
    files: Sequence[Path],
    errors: Errors | None = None,
    *,
    stdin: bool = True,
    quiet: bool = False,
) -> Input:
    """The parts of a prompt: stdin counts where it is a pipe or a file that isn't empty.

    A line says so where that is long waited for, unless quiet: who called the program may have
    left it open.

    Raises UsageError where nothing is there to answer, a named file is empty, or bytes aren't
    UTF-8; NotFoundError where a file isn't there.
    """
    texts = [read_file(path, errors) for path in files]
    piped = read_stdin(errors, quiet=quiet) if stdin and Path("-") not in files else ""
    if piped.strip():
        texts.insert(0, Text("standard input", piped))
    asked = instruction if instruction and instruction.strip() else ""
    if not (texts or asked):
        raise UsageError("there is no prompt: give run one as its argument, or a question on stdin")
    return Input(asked, tuple(texts))


def read_stdin(errors: Errors | None = None, *, quiet: bool = False) -> str:
    """All of stdin where it is a pipe or a file, else nothing."""
    if sys.stdin.isatty():
        return ""
    told = "waiting for the end of stdin; with `< /dev/null` it isn't read"
    with alarm(lambda: notice(told)) as start:
        if not (quiet or WINDOWS):  # there it would be told when the wait is over
            start(LONG)
        return decode(_read(sys.stdin.buffer, "stdin"), "stdin", errors)


def read_file(path: Path, errors: Errors | None = None) -> Text:
    """A file's text; `-` is stdin. Raises as gather does."""
    name = "standard input" if path == Path("-") else str(path)
    file = Text(name, decode(read_bytes(path), name, errors))
    if not file.text.strip():
        raise UsageError(f"{file.name} is empty")
    return file


def read_bytes(path: Path) -> bytes:
    """A file's bytes; `-` is stdin. Raises NotFoundError and UsageError."""
    if path == Path("-"):
        if sys.stdin.isatty():
            raise UsageError("stdin is a terminal; pipe something in, or name a file")
        return _read(sys.stdin.buffer, "stdin")
    with reading(path), path.open("rb") as file:
        return _read(file, str(path))


def _read(file: BinaryIO, name: str) -> bytes:
    data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise DoesNotFitError(f"{name} has more than {MAX_BYTES} bytes, the most that are read")
    return data


def decode(data: bytes, name: str, errors: Errors | None = None) -> str:
    """UTF-8 as text, without the byte order mark that some programs put in front.

    By another such mark UTF-16 is known, which PowerShell writes. errors is None where there is no
    option for it. Raises UsageError.
    """
    encoding = "UTF-16" if data[:2] in (BOM_UTF16_LE, BOM_UTF16_BE) else "UTF-8"
    try:
        return data.decode(encoding, errors or "strict").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        option = ", or let it through with --errors replace" if errors else ""
        raise UsageError(
            f"{name} is not {encoding} at byte {error.start}", hint=f"convert it{option}"
        ) from None


def fit(
    given: Input,
    encode: Callable[[Input], list[int]],
    vocabulary: "Vocabulary",
    room: int,
    cut: Cut,
) -> tuple[list[int], int]:
    """The prompt's tokens, at most room, and how many of the longest text's were cut out for it.

    cut names the part that goes: a text's head, its middle (where CUT then stands) or its tail.
    Without a text, the instruction itself is cut. Raises DoesNotFitError where cutting all of the
    longest text isn't enough.
    """
    tokens = encode(given)
    if len(tokens) <= room:
        return tokens, 0
    whole = given.texts or (Text("", given.instruction),)
    longest = max(range(len(whole)), key=lambda i: len(whole[i].text))
    ids = vocabulary.tokenize(whole[longest].text)
    keep = len(ids) - (len(tokens) - room)
    for _ in range(16):  # texts put together anew may take a few tokens more
        if keep < 1:
            break
        text = replace(whole[longest], text=_cut(ids, keep, cut, vocabulary))
        texts = (*whole[:longest], text, *whole[longest + 1 :])
        shorter = Input(given.instruction, texts) if given.texts else Input(text.text)
        tokens = encode(shorter)
        if len(tokens) <= room:
            return tokens, len(ids) - keep
        keep -= len(tokens) - room
    raise DoesNotFitError(
        f"the prompt takes {len(encode(given))} tokens, {room} fit beside the answer, and cutting "
        f"its longest text is not enough; raise the context with -c"
    )


def _cut(ids: Sequence[int], keep: int, cut: Cut, vocabulary: "Vocabulary") -> str:
    """keep tokens' worth of text; a character that the cut goes through is dropped."""

    def spell(part: Sequence[int]) -> str:
        return b"".join(map(vocabulary.piece, part)).decode("utf-8", "ignore")

    if cut == "tail":
        return spell(ids[:keep])
    if cut == "head":
        return spell(ids[len(ids) - keep :])
    half = keep // 2
    return spell(ids[: keep - half]) + CUT + spell(ids[len(ids) - half :] if half else [])
