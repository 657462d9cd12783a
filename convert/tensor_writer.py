"""The tensors' data quantized and written, piece by piece, by several threads.

Each thread takes a piece, quantizes it and writes it where it goes; reading, kernels and writing
release the GIL. Pieces from a disk are read by the same thread, which the system's read-ahead
keeps busy; those from elsewhere by threads of their own, ahead. The calling thread counts what is
done. So a few pieces are in memory at a time, whatever the model's size.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace

import numpy as np
from gguf import GGMLQuantizationType
from numpy.typing import NDArray

from convert import system
from convert.checkpoint import Checkpoint
from convert.header import PlannedTensor
from convert.journal import Journal, digest
from convert.kernels import Kernel
from convert.pieces import Piece, not_finite_error, pieces_of, quantize_piece, read_piece
from convert.pool import Pool, some_ahead
from convert.safetensors import reading
from convert.target import write_all
from convert.tensors import frequency_factors

Importances = Mapping[str, NDArray[np.float32]]  # by the tensors' GGUF names

PIECES_AHEAD = 8  # a thread, so that it never waits for the disk
MOST_AHEAD = 64  # pieces, of 12 MiB at most while they wait


@dataclass(frozen=True)
class Progress:
    """What has been written so far; tensor is the name of the latest one."""

    tensor: str
    nbytes: int
    total_nbytes: int
    parameters: int
    total_parameters: int


@dataclass(frozen=True)
class _Done:
    """What is known of a piece that was written; hashed is its digest where there is a journal."""

    not_finite: int
    seconds: float
    hashed: str | None


class _Buffers(threading.local):
    """A thread's own memory for what it reads and writes, in which piece follows piece.

    To ask the system for each piece's anew takes longer than reading it: every page is a fault, and
    threads wait for each other there.
    """

    def __init__(self, pieces: Sequence[Piece]) -> None:
        """With room for each of these."""
        self.source = np.empty(max(piece.source_nbytes for piece in pieces), np.uint8)
        self.target = np.empty(max(piece.nbytes for piece in pieces), np.uint8)


@dataclass
class TensorWriter:
    """The writing of all tensors: what from, where to, and how far it has come."""

    checkpoint: Checkpoint
    tensors: tuple[PlannedTensor, ...]
    kernels: Mapping[GGMLQuantizationType, Kernel]
    importances: Importances
    descriptor: int
    start: int
    journal: Journal | None
    progress: Callable[[Progress], None] | None
    not_finite: int = 0
    kernel_seconds: float = 0.0

    def __post_init__(self) -> None:
        nbytes = sum(tensor.nbytes for tensor in self.tensors)
        parameters = sum(tensor.spec.parameters for tensor in self.tensors)
        self.done = Progress("", 0, nbytes, 0, parameters)

    def run(self, threads: int) -> float:
        """Quantize and write all pieces in order; return the seconds spent in kernels."""
        files = {stored.file for stored in self.checkpoint.weights.values()}
        ahead = max(2 * threads, min(threads * PIECES_AHEAD, MOST_AHEAD))
        remote = self.checkpoint.waits
        readers = Pool(max(file.parallel for file in files), "read")
        pool = Pool(threads, "quantize")
        pieces = [*pieces_of(self.checkpoint, self.tensors)]
        buffers = _Buffers(pieces)

        def start(piece: Piece) -> Future[_Done]:
            read = readers.submit(read_piece, piece).result if remote else None
            return pool.submit(self._do, piece, read, buffers)

        with reading(files, readers, pool):
            for piece, done in some_ahead(start, self._missing(pieces, threads), ahead):
                self._count_done(piece, done)
        factors = frequency_factors(self.checkpoint.config)
        if factors is not None:
            place = self.start + self.tensors[-1].offset
            write_all(self.descriptor, factors.view(np.uint8).data, place)
        return self.kernel_seconds

    def _do(self, piece: Piece, read: Callable[[], memoryview] | None, buffers: _Buffers) -> _Done:
        """Read, quantize and write a piece, in a thread of the pool."""
        kind = piece.tensor.type
        raw = read_piece(piece, buffers.source.data) if read is None else read()
        weights = self.importances.get(piece.tensor.spec.name)
        result = quantize_piece(piece, raw, self.kernels[kind], weights, buffers.target)
        data = result.data.reshape(-1).data
        write_all(self.descriptor, data, self.start + piece.offset)
        # Else the system may keep it all, and the end waits for the disk.
        system.write_out(self.descriptor, self.start + piece.offset, piece.nbytes)
        hashed = None if self.journal is None else digest(data)
        return _Done(result.not_finite, result.seconds, hashed)

    def _missing(self, pieces: list[Piece], threads: int) -> list[Piece]:
        """The pieces that aren't there from an earlier call; the others count as done."""
        if self.journal is None:
            return pieces
        places = [(self.start + piece.offset, piece.nbytes) for piece in pieces]
        there = self.journal.offsets_kept(places, threads)
        missing = []
        for piece in pieces:
            if self.start + piece.offset in there:
                self._count(piece)
            else:
                missing.append(piece)
        return missing

    def _count_done(self, piece: Piece, done: _Done) -> None:
        spec = piece.tensor.spec
        self.not_finite += done.not_finite
        if piece.first_row + piece.rows == spec.rows and self.not_finite:
            raise not_finite_error(piece.stored, spec, self.not_finite)
        # A piece of a tensor with such values must be met again by a later call.
        if self.journal is not None and done.hashed is not None and not self.not_finite:
            self.journal.note(self.start + piece.offset, piece.nbytes, done.hashed)
        self.kernel_seconds += done.seconds
        self._count(piece)

    def _count(self, piece: Piece) -> None:
        self.done = replace(
            self.done,
            tensor=piece.tensor.spec.name,
            nbytes=self.done.nbytes + piece.nbytes,
            parameters=self.done.parameters + piece.parameters,
        )
        if self.progress is not None:
            self.progress(self.done)
