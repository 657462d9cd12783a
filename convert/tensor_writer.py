"""The tensors' data quantized and written, piece by piece, by several threads.

Each thread takes a piece, quantizes it and writes it where it goes; reading, kernels and writing
release the GIL. Pieces from a disk are read by the same thread, which the system's read-ahead
keeps busy; those from elsewhere by threads of their own, ahead. The calling thread counts what is
done. So a few pieces are in memory at a time, whatever the model's size.
"""

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from gguf import GGMLQuantizationType
from numpy.typing import NDArray

from convert import system
from convert.checkpoint import Checkpoint
from convert.header import PlannedTensor
from convert.journal import Journal, digest
from convert.kernels import Kernel
from convert.pieces import PIECE, Piece, not_finite_error, pieces_of, quantize_piece, read_piece
from convert.pool import Pool, some_ahead
from convert.safetensors import reading
from convert.target import write_all
from convert.tensors import frequency_factors

LARGEST = 4 * PIECE  # bytes of most pieces, before and after

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

    def __init__(self) -> None:
        self.source = np.empty(LARGEST, np.uint8)
        self.target = np.empty(LARGEST, np.uint8)

    def hold(self, source: int, target: int) -> None:
        """Have room for so many bytes."""
        if source > self.source.size:
            self.source = np.empty(source, np.uint8)
        if target > self.target.size:
            self.target = np.empty(target, np.uint8)


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
    nbytes: int = 0
    parameters: int = 0
    not_finite: int = 0
    kernel_seconds: float = 0.0
    buffers: _Buffers = field(default_factory=_Buffers)

    @cached_property
    def totals(self) -> tuple[int, int]:
        """Bytes and parameters of all tensors."""
        nbytes = sum(tensor.nbytes for tensor in self.tensors)
        return nbytes, sum(tensor.spec.parameters for tensor in self.tensors)

    def run(self, threads: int) -> float:
        """Quantize and write all pieces in order; return the seconds spent in kernels."""
        files = {stored.file for stored in self.checkpoint.weights.values()}
        ahead = max(2 * threads, min(threads * PIECES_AHEAD, MOST_AHEAD))
        remote = self.checkpoint.waits
        readers = Pool(max(file.parallel for file in files), "read")
        pool = Pool(threads, "quantize")

        def start(piece: Piece) -> Future[_Done]:
            read = readers.submit(read_piece, piece).result if remote else None
            return pool.submit(self._do, piece, read)

        with reading(files, readers, pool):
            missing = self._missing(list(pieces_of(self.checkpoint, self.tensors)), threads)
            for piece, done in some_ahead(start, missing, ahead):
                self._count_done(piece, done)
        factors = frequency_factors(self.checkpoint.config)
        if factors is not None:
            place = self.start + self.tensors[-1].offset
            write_all(self.descriptor, factors.view(np.uint8).data, place)
        return self.kernel_seconds

    def _do(self, piece: Piece, read: Callable[[], memoryview] | None) -> "_Done":
        """Read, quantize and write a piece, in a thread of the pool."""
        buffers, kind = self.buffers, piece.tensor.type
        buffers.hold(piece.source_nbytes, piece.nbytes)
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
        self.nbytes += piece.nbytes
        self.parameters += piece.parameters
        if self.progress is not None:
            name, (nbytes, parameters) = piece.tensor.spec.name, self.totals
            self.progress(Progress(name, self.nbytes, nbytes, self.parameters, parameters))
