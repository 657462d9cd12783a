"""A GGUF file of the Hub: which of a repo's is meant, and fetching it, its parts, into one file.

Bytes come by range; what was cut short goes on; hashes are checked before the file has its name.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import httpx2

import convert
from llamacli import gguf
from llamacli.errors import InvalidModelError, NotFoundError, UsageError
from llamacli.hub.checkpoint import Needs, is_gguf, needs_of
from llamacli.hub.repo import Repo, http_client, remote_file
from llamacli.models import HUB_ID, registry, split_name

SPLIT = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf", re.IGNORECASE)
PIECE = 8 << 20  # bytes asked for at once
AHEAD = 16  # pieces in memory
HEADER = 16 << 20  # bytes that are read first; where the header is longer, four times as many
MAX_HEADER = 256 << 20
LONG_TO_CHECK = 4 << 30  # bytes, whose hash takes some seconds
CHECKERS = 2  # threads that check what an earlier call has fetched


@dataclass(frozen=True)
class Wanted:
    """owner/repo, and after it :QUANTIZATION, /FILE, or nothing."""

    repo: str
    quantization: str | None = None
    file: str | None = None


def parse_wanted(text: str) -> Wanted:
    """What the user wrote. Raises UsageError where it is none of the forms."""
    text = registry.without_address(text)
    repo, colon, quantization = text.partition(":")
    if colon and HUB_ID.fullmatch(repo) and re.fullmatch(r"[\w.-]+", quantization, re.ASCII):
        return Wanted(repo, quantization=quantization)
    owner, *rest = text.split("/", 2)
    repo = "/".join((owner, *rest[:1]))
    if not colon and HUB_ID.fullmatch(repo) and all(rest):
        return Wanted(repo, file=rest[1] if len(rest) > 1 else None)
    if registry.find(text) is not None:
        raise UsageError(f"{text} is a checkpoint's name; `llamacli convert {text}` gets it")
    raise UsageError(
        f"{text!r} names no GGUF file on the Hub; write owner/repo:Q4_K_M, owner/repo/file.gguf, "
        "or owner/repo where it has one"
    )


def choose(repo: Repo, wanted: Wanted) -> tuple[str, list[str]]:
    """The name for the file in the store, and the paths of its parts in order; often one.

    Raises NotFoundError or UsageError with what there is, InvalidModelError where parts are
    missing.
    """
    whole = _group(repo.files)
    if not whole:
        raise NotFoundError(f"{repo.id} has no GGUF files; is `llamacli convert {repo.id}` meant?")
    names = [name for name in whole if _fits(name, whole[name], wanted)]
    if len(names) != 1:
        tags = sorted({split_name(PurePosixPath(name).stem)[1] or name for name in names or whole})
        there = ", ".join(tags[:20]) + (", …" if len(tags) > 20 else "")
        asked = wanted.quantization or wanted.file
        if not names:
            raise NotFoundError(f"{repo.id} has no {asked}; there are {there}")
        raise UsageError(f"{repo.id} has several; name one, as {repo.id}:{tags[0]}, of {there}")
    name = PurePosixPath(names[0]).name
    if name.startswith("."):
        raise InvalidModelError(f"{name} would be hidden in the store")
    return name, _in_order(repo.id, whole[names[0]])


def _group(files: Mapping[str, object]) -> dict[str, list[str]]:
    """GGUF files by path, the parts of a split one under the path that it would have whole, and
    left aside where that is there."""
    groups: dict[str, list[str]] = {}
    for name in sorted(files):
        if is_gguf(name):
            split = SPLIT.fullmatch(name)
            whole = f"{split[1]}.gguf" if split else name
            if whole == name or whole not in files:
                groups.setdefault(whole, []).append(name)
    return groups


def _fits(name: str, parts: list[str], wanted: Wanted) -> bool:
    if wanted.file is not None:
        return wanted.file == name or wanted.file in parts
    if wanted.quantization is None:
        return True
    tag = re.escape(wanted.quantization)
    return re.fullmatch(rf"(.*[-.])?{tag}", PurePosixPath(name).stem, re.IGNORECASE) is not None


def _in_order(repo: str, parts: list[str]) -> list[str]:
    """All parts by number, or the one file that isn't split."""
    numbers = [SPLIT.fullmatch(part) for part in parts]
    if numbers == [None]:
        return parts
    counted = {(int(m[2]), int(m[3])) for m in numbers if m is not None}
    if counted != {(i, len(parts)) for i in range(1, len(parts) + 1)}:
        raise InvalidModelError(f"{repo} has {parts[0]}, but not all of its parts")
    return parts


@dataclass(frozen=True)
class Part:
    """A file of the repo: its data starts where its header ends."""

    file: convert.WeightFile
    sha256: str | None
    header: gguf.GGUFFile

    @property
    def length(self) -> int:
        """Bytes of its data."""
        return max(self.file.size - self.header.data_offset, 0)


@dataclass(frozen=True)
class Piece:
    """Some bytes of a part's data, and their place in the target."""

    file: convert.WeightFile
    offset: int
    length: int
    place: int


def pull(
    repo: Repo,
    names: Sequence[str],
    target: Path,
    *,
    tell: Callable[[Needs], None],
    force: bool,
    progress: Callable[[convert.Progress], None],
    notice: Callable[[str], None],
) -> None:
    """Fetch the files, parts of one model in order, and make target of them.

    Headers are checked first, then tell hears what it takes; each file's SHA-256 is checked before
    target gets its name. Raises NotFoundError, InvalidModelError, ConvertError subclasses; what is
    cut short goes on at the next call.
    """
    with http_client() as client:
        parts = [_open(repo, name, client) for name in names]
        header = gguf.joined_header([part.header for part in parts])
        pieces = list(_pieces(parts, len(header)))
        size = len(header) + sum(gguf.padded(one.length) for one in parts[:-1]) + parts[-1].length
        shape = gguf.read_header(header, size, target.name)[1]
        values = shape.blocks * shape.kv_heads * shape.head_size
        tell(needs_of(repo, names, (), size, shape.context, values))
        hashes = {name: repo.files[name].etag for name in names}
        made_of = {"origin": repo.origin, "header": convert.digest(header), "files": hashes}
        with convert.resumable_file(target, force, made_of) as (_, journal):
            if journal.pieces:
                notice("going on from what the last call has fetched, checked by its hashes")
            convert.allocate(journal.descriptor, target, size)
            journal.write(header, 0)
            _fetch(pieces, journal, target.name, progress)
            if size > LONG_TO_CHECK:
                notice("checking the SHA-256 of what has arrived")
            _check_hashes(parts, journal.descriptor, len(header))


def _open(repo: Repo, name: str, client: httpx2.Client) -> Part:
    """A file of the repo with its header read, as much of it as that takes."""
    cached = repo.cached.get(name)
    file = remote_file(repo, name, client) if cached is None else convert.LocalFile(cached)
    most, length = min(MAX_HEADER, file.size), min(HEADER, file.size)
    raw = b""
    while True:
        raw += file.read(len(raw), length - len(raw))
        try:
            header = gguf.read_beginning(raw, file.size, name)
            return Part(file, repo.files[name].sha256, header)
        except gguf.HeaderError as error:
            if length == most or error.position <= length:
                raise
        length = min(4 * length, most)


def _pieces(parts: Sequence[Part], start: int) -> Iterator[Piece]:
    for part in parts:
        for at in range(0, part.length, PIECE):
            length = min(PIECE, part.length - at)
            yield Piece(part.file, part.header.data_offset + at, length, start + at)
        start += gguf.padded(part.length)


def _fetch(
    pieces: Sequence[Piece],
    journal: convert.Journal,
    name: str,
    progress: Callable[[convert.Progress], None],
) -> None:
    """Fetch and write the pieces that aren't there yet, in order, some ahead in parallel."""
    there = journal.offsets_kept([(piece.place, piece.length) for piece in pieces], CHECKERS)
    total = sum(piece.length for piece in pieces)
    done = sum(piece.length for piece in pieces if piece.place in there)
    missing = [piece for piece in pieces if piece.place not in there]
    files = {piece.file for piece in pieces}
    pool = convert.Pool(max(file.parallel for file in files), "read")

    def start(piece: Piece) -> "Future[bytearray]":
        return pool.submit(piece.file.read, piece.offset, piece.length)

    with convert.reading(files, pool):
        for piece, data in convert.some_ahead(start, missing, AHEAD):
            journal.write(data, piece.place)
            done += piece.length
            progress(convert.Progress(name, done, total, done, total))


def _check_hashes(parts: Sequence[Part], descriptor: int, start: int) -> None:
    """That each file arrived as the Hub has it. Raises CheckpointError."""
    for part in parts:
        hashed = hashlib.sha256(part.header.begun)
        for at in range(0, part.length, PIECE):
            hashed.update(convert.read_all(descriptor, min(PIECE, part.length - at), start + at))
        if part.sha256 not in (None, hashed.hexdigest()):
            raise convert.CheckpointError(
                f"{part.file.name} arrived with another SHA-256 than the Hub tells; fetch it again"
            )
        start += gguf.padded(part.length)
