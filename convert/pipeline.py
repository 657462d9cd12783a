"""One pass from safetensors to GGUF: each weight is read once, quantized and written.

Each thread takes a piece, quantizes it and writes it where it goes; reading, kernels and writing
release the GIL. Pieces from a disk are read by the same thread, which the system's read-ahead
keeps busy; those from elsewhere by threads of their own, ahead. The calling thread counts what is
done. So a few pieces are in memory at a time, whatever the model's size.
"""

import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType
from numpy.typing import NDArray

from convert import system
from convert.checkpoint import Checkpoint, open_checkpoint
from convert.errors import ImportanceError
from convert.header import header_bytes
from convert.importance import ImportanceMatrix, importances_for
from convert.journal import Journal, digest, resumable_file, space_taken
from convert.kernels import Kernel, choose, ggml_kernel
from convert.pieces import Piece, not_finite_error, pieces_of, quantize_piece, read_piece
from convert.plan import PlannedTensor, plan_tensors
from convert.quantization import Quantization, named_quantization, requires_importance
from convert.rope import frequency_factors
from convert.target import allocate, check_space, check_target, whole_file, write_all

Importances = Mapping[str, NDArray[np.float32]]  # by the tensors' GGUF names

PIECES_AHEAD = 8  # a thread, so that it never waits for the disk
MOST_AHEAD = 64  # pieces, of 12 MiB at most while they wait
SMALL = 50_000_000  # parameters that ggml's kernel has quantized before a faster one is loaded

Check = Callable[[bytes, int], None]


@dataclass(frozen=True)
class Progress:
    """What has been written so far; tensor is the name of the latest one."""

    tensor: str
    nbytes: int
    total_nbytes: int
    parameters: int
    total_parameters: int


@dataclass(frozen=True)
class Report:
    """What a conversion did. kernel_seconds is the time in kernels, summed over threads."""

    path: Path
    quantization: str
    tensors: tuple[PlannedTensor, ...]
    source_nbytes: int
    target_nbytes: int
    seconds: float
    kernel_seconds: float


def convert(
    source: Path | str,
    target: Path | str,
    quant: str | Quantization,
    *,
    threads: int | None = None,
    progress: Callable[[Progress], None] | None = None,
    notice: Callable[[str], None] | None = None,
    check: Check | None = None,
    force: bool = False,
    importance: ImportanceMatrix | None = None,
) -> Report:
    """Convert a Hugging Face Llama checkpoint folder into one GGUF file.

    quant is a name of convert.quantization.QUANTIZATIONS, in any case, or one with types of its
    own; threads defaults to the processors this process may use. notice gets a line when something
    takes its time before the first progress, and the checkpoint's notes. check gets the header and
    the file's size before the first weight is read, and may raise. importance weighs the errors of
    quantization. Raises ConvertError subclasses; target appears only whole.
    """
    chosen = named_quantization(quant) if isinstance(quant, str) else quant
    check_target(Path(target), force)
    checkpoint = open_checkpoint(Path(source))
    return write_gguf(
        checkpoint,
        Path(target),
        chosen,
        threads=threads,
        progress=progress,
        notice=notice,
        check=check,
        force=force,
        importance=importance,
    )


def write_gguf(
    checkpoint: Checkpoint,
    target: Path,
    chosen: Quantization,
    *,
    threads: int | None = None,
    progress: Callable[[Progress], None] | None = None,
    notice: Callable[[str], None] | None = None,
    check: Check | None = None,
    force: bool = False,
    origin: str | None = None,
    importance: ImportanceMatrix | None = None,
) -> Report:
    """The same for a checkpoint that is open already, its files here or elsewhere.

    Where origin names its source and version, a conversion that is cut short keeps what it has
    written, and the next one goes on from there.
    """
    started = time.monotonic()
    if importance is not None:
        chosen = replace(chosen, importance=importance.origin)
    tensors = plan_tensors(checkpoint.config, chosen)
    importances = _importances(chosen, tensors, importance)
    check_target(target, force)
    there = 0 if origin is None else space_taken(target)
    check_space(target, sum(tensor.nbytes for tensor in tensors) - there)
    if notice is not None:
        for note in checkpoint.notes:
            notice(note)
    header = header_bytes(checkpoint, chosen, tensors)
    size = len(header) + tensors[-1].offset + tensors[-1].nbytes
    if check is not None:
        check(header, size)
    parameters = sum(tensor.spec.parameters for tensor in tensors)
    kernels = kernels_for({tensor.type for tensor in tensors}, parameters, notice)
    with ExitStack() as stack:
        if origin is None:
            part, journal = stack.enter_context(whole_file(target, force)), None
        else:
            made_of = {
                "origin": origin,
                "header": digest(header),
                "files": _files(checkpoint),
                "importances": digest(b"".join(map(bytes, importances.values()))),
                "merged": digest(checkpoint.merged_identity.encode()),
            }
            part, journal = stack.enter_context(resumable_file(target, force, made_of))
            _tell(journal, notice)
        file = stack.enter_context(open(part, "r+b", buffering=0))
        allocate(file.fileno(), target, size)
        write_all(file.fileno(), header, 0)
        job = _Job(
            checkpoint,
            tensors,
            kernels,
            importances,
            file.fileno(),
            len(header),
            journal,
            progress,
        )
        kernel_seconds = job.run(threads or system.allowed_processors())
    return Report(
        path=target,
        quantization=chosen.name,
        tensors=tensors,
        source_nbytes=checkpoint.source_nbytes,
        target_nbytes=size,
        seconds=time.monotonic() - started,
        kernel_seconds=kernel_seconds,
    )


def _importances(
    chosen: Quantization, tensors: tuple[PlannedTensor, ...], matrix: ImportanceMatrix | None
) -> Importances:
    """Those of each tensor. Raises ImportanceError where one is unfit for its type without."""
    if matrix is not None:
        return importances_for(matrix, [tensor.spec for tensor in tensors])
    for tensor in tensors:
        if requires_importance(chosen, tensor.spec.name, tensor.type):
            raise needs_importance(chosen.name, tensor.spec.name, tensor.type)
    return {}


def needs_importance(mixture: str, name: str, kind: GGMLQuantizationType) -> ImportanceError:
    """What to raise where a tensor is unfit in that type without an importance matrix."""
    fault = f"{mixture} makes garbage of {name} ({kind.name}) without an importance matrix"
    return ImportanceError(fault, hint="give one with --imatrix")


def kernels_for(
    kinds: Collection[GGMLQuantizationType],
    parameters: int,
    notice: Callable[[str], None] | None,
) -> dict[GGMLQuantizationType, Kernel]:
    """The fastest kernel for each type that gives ggml's bytes; ggml's own for few parameters."""
    if parameters < SMALL:
        return {kind: ggml_kernel(kind) for kind in kinds}

    def on_compile() -> None:
        if notice is not None:
            notice("compiling the quantizer for this machine, this once: some seconds")

    return {kind: choose(kind, on_compile=on_compile).kernel for kind in sorted(kinds)}


def _files(checkpoint: Checkpoint) -> dict[str, str]:
    return {stored.file.name: stored.file.identity for stored in checkpoint.weights.values()}


def _tell(journal: Journal, notice: Callable[[str], None] | None) -> None:
    if notice is not None and journal.renewed:
        notice("the source has changed since the last call; starting anew")
    elif notice is not None and journal.pieces:
        notice("going on from what the last call has done, checked by its hashes")


@dataclass(frozen=True)
class _Done:
    """What is known of a piece that was written; hashed is its digest where there is a journal."""

    not_finite: int
    seconds: float
    hashed: str | None


@dataclass
class _Job:
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

    @cached_property
    def totals(self) -> tuple[int, int]:
        """Bytes and parameters of all tensors."""
        nbytes = sum(tensor.nbytes for tensor in self.tensors)
        return nbytes, sum(tensor.spec.parameters for tensor in self.tensors)

    def run(self, threads: int) -> float:
        """Quantize and write all pieces in order; return the seconds spent in kernels."""
        files = {stored.file for stored in self.checkpoint.weights.values()}
        ahead = max(2 * threads, min(threads * PIECES_AHEAD, MOST_AHEAD))
        waiting: deque[tuple[Piece, Future[_Done]]] = deque()
        remote = any(file.waits for file in files)
        readers = ThreadPoolExecutor(max(file.parallel for file in files), "read")
        pool = ThreadPoolExecutor(threads, "quantize")
        try:
            for piece in self._missing(list(pieces_of(self.checkpoint, self.tensors)), threads):
                if len(waiting) >= ahead:
                    self._count_done(*waiting.popleft())
                read = readers.submit(read_piece, piece).result if remote else None
                waiting.append((piece, pool.submit(self._do, piece, read)))
            while waiting:
                self._count_done(*waiting.popleft())
        except BaseException:
            for file in files:
                file.cancel()
            raise
        finally:
            readers.shutdown(wait=True, cancel_futures=True)
            pool.shutdown(wait=True, cancel_futures=True)
        factors = frequency_factors(self.checkpoint.config)
        if factors is not None:
            place = self.start + self.tensors[-1].offset
            write_all(self.descriptor, factors.view(np.uint8).data, place)
        return self.kernel_seconds

    def _do(self, piece: Piece, read: Callable[[], bytearray] | None) -> "_Done":
        """Read, quantize and write a piece, in a thread of the pool."""
        raw = read_piece(piece) if read is None else read()
        weights = self.importances.get(piece.tensor.spec.name)
        result = quantize_piece(piece, raw, self.kernels[piece.tensor.type], weights)
        data = result.data.reshape(-1).data
        write_all(self.descriptor, data, self.start + piece.offset)
        hashed = None if self.journal is None else digest(data)
        return _Done(result.not_finite, result.seconds, hashed)

    def _missing(self, pieces: list[Piece], threads: int) -> list[Piece]:
        """The pieces that aren't there from an earlier call; the others count as done."""
        if self.journal is None:
            return pieces
        places = [(self.start + piece.offset, piece.nbytes) for piece in pieces]
        there = self.journal.keep_whole(places, threads)
        missing = []
        for piece in pieces:
            if self.start + piece.offset in there:
                self._count(piece)
            else:
                missing.append(piece)
        return missing

    def _count_done(self, piece: Piece, future: "Future[_Done]") -> None:
        done, spec = future.result(), piece.tensor.spec
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
