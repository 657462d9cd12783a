"""Fetch a GGUF file from the Hub into one file: by byte range, resumable, checked, parts merged."""

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import convert
from llamacli import gguf
from llamacli.errors import InvalidModelError
from llamacli.hub.checkpoint import CONTEXT, KV_BYTES, Needs
from llamacli.hub.repo import Repo, http_client, remote_file

if TYPE_CHECKING:
    import httpx2

PIECE = 8 << 20  # bytes asked for at once
AHEAD = 16  # pieces in memory
HEADER = 16 << 20  # bytes that are read first; where the header is longer, four times as many
MAX_HEADER = 256 << 20
LONG_TO_CHECK = 4 << 30  # bytes, whose hash takes some seconds
CHECKERS = 2  # threads that check what an earlier call has fetched


@dataclass(frozen=True)
class Part:
    """A file of the repo: its header as it is and as it reads; its data starts where that ends."""

    file: convert.WeightFile
    sha256: str | None
    raw: bytes
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
    force: bool = False,
    progress: Callable[[convert.Progress], None] | None = None,
    notice: Callable[[str], None] | None = None,
) -> None:
    """Fetch the files, parts of one model in order, and make target of them.

    Headers are checked first, then tell hears what it takes; each file's SHA-256 is checked before
    target gets its name. Raises NotFoundError, InvalidModelError, ConvertError subclasses; what is
    cut short goes on at the next call.
    """
    with http_client() as client, tempfile.TemporaryDirectory(prefix="llamacli-") as folder:
        parts = [_open(repo, name, client, Path(folder) / f"{i}") for i, name in enumerate(names)]
        header = _header(parts)
        pieces = list(_pieces(parts, len(header)))
        size = len(header) + sum(gguf.padded(one.length) for one in parts[:-1]) + parts[-1].length
        tell(_needs(repo, names, gguf.read_header(header, size, target.name)[1], size))
        hashes = {name: repo.files[name].etag for name in names}
        made_of = {"origin": repo.origin, "header": convert.digest(header), "files": hashes}
        with convert.resumable_file(target, force, made_of) as (_, journal):
            if notice is not None and journal.pieces:
                notice("going on from what the last call has fetched, checked by its hashes")
            convert.allocate(journal.descriptor, target, size)
            journal.write(header, 0)
            _fetch(pieces, journal, target.name, progress)
            if notice is not None and size > LONG_TO_CHECK:
                notice("checking the SHA-256 of what has arrived")
            _check_hashes(parts, journal.descriptor, len(header))


def _open(repo: Repo, name: str, client: "httpx2.Client", scratch: Path) -> Part:
    """A file of the repo with its header read, as much of it as that takes."""
    cached = repo.cached.get(name)
    file = remote_file(repo, name, client) if cached is None else convert.LocalFile(cached)
    most, length = min(MAX_HEADER, file.size), min(HEADER, file.size)
    raw = b""
    while True:
        raw += file.read(len(raw), length - len(raw))
        with scratch.open("wb") as sparse:
            sparse.write(raw)
            sparse.truncate(file.size)  # the beginning alone takes disk
        try:
            with _named(scratch, name):
                header = gguf.read_gguf(scratch)
                if length == most < header.data_offset:
                    header.fail(f"its header takes more than {length} bytes")
            if header.data_offset <= length:
                return Part(file, repo.files[name].sha256, raw[: header.data_offset], header)
        except gguf.HeaderError as error:
            if length == most or error.position <= length:
                raise
        length = min(4 * length, most)


def _header(parts: Sequence[Part]) -> bytes:
    if len(parts) == 1:
        return parts[0].raw
    headers = [part.header for part in parts]
    for number, part in enumerate(parts):
        with _named(part.header.path, part.file.name):
            gguf.check_part(number, headers)
    return gguf.merged_header(headers)


@contextmanager
def _named(path: Path, name: str) -> Iterator[None]:
    """Errors name the file on the Hub, not the one that its header was written to."""
    try:
        yield
    except InvalidModelError as error:
        if error.file == path:
            error.file = name
        raise


def _needs(repo: Repo, names: Sequence[str], shape: gguf.LlamaShape, size: int) -> Needs:
    missing = [repo.files[name].size for name in names if name not in repo.cached]
    values = shape.blocks * shape.kv_heads * shape.head_size
    running = size + min(shape.context, CONTEXT) * values * KV_BYTES
    return Needs(sum(missing), len(missing), 0, size, running)


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
    progress: Callable[[convert.Progress], None] | None,
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
            if progress is not None:
                progress(convert.Progress(name, done, total, done, total))


def _check_hashes(parts: Sequence[Part], descriptor: int, start: int) -> None:
    """That each file arrived as the Hub has it. Raises CheckpointError."""
    for part in parts:
        hashed = hashlib.sha256(part.raw)
        for at in range(0, part.length, PIECE):
            hashed.update(convert.read_all(descriptor, min(PIECE, part.length - at), start + at))
        if part.sha256 not in (None, hashed.hexdigest()):
            raise convert.CheckpointError(
                f"{part.file.name} arrived with another SHA-256 than the Hub tells; fetch it again"
            )
        start += gguf.padded(part.length)
