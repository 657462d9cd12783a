"""One pass from safetensors to GGUF: each weight is read once, quantized and written.

Threads read ahead, others quantize (the kernels release the GIL), and the calling thread writes
behind them, so that a few pieces are in memory at a time, whatever the model's size.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType
from numpy.typing import NDArray

from convert.checkpoint import Checkpoint, open_checkpoint
from convert.errors import CheckpointError, TargetError
from convert.fast import INFINITY, choose, ggml_kernel
from convert.fast_check import Kernel
from convert.quantization import Quantization, quantization, tensor_nbytes
from convert.rope import frequency_factors
from convert.safetensors import ITEM_SIZES, StoredTensor
from convert.tensors import permute_heads
from convert.writer import PlannedTensor, check_space, check_target, plan, whole_file, write_header

PIECE = 1 << 21  # parameters a piece: 4 MiB of BF16, 8 MiB as float32
Type = GGMLQuantizationType
PIECES_AHEAD = 8  # a thread, so that it never waits for the disk
READERS = 2
LARGEST_F16 = 65504.0
SMALL = 50_000_000  # parameters that ggml's kernel has quantized before a faster one is loaded


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


@dataclass(frozen=True)
class Piece:
    """Some whole rows of one tensor, and where their bytes go, from the data's start."""

    tensor: PlannedTensor
    stored: StoredTensor
    first_row: int
    rows: int
    offset: int

    @property
    def parameters(self) -> int:
        return self.rows * self.tensor.spec.columns


@dataclass(frozen=True)
class Quantized:
    """The bytes of a piece, and what was seen on the way: non-finite values and kernel time."""

    piece: Piece
    data: NDArray[np.uint8]
    not_finite: int
    seconds: float


def convert(
    source: Path | str,
    target: Path | str,
    quant: str,
    *,
    threads: int | None = None,
    progress: Callable[[Progress], None] | None = None,
    notice: Callable[[str], None] | None = None,
    force: bool = False,
) -> Report:
    """Convert a Hugging Face Llama checkpoint folder into one GGUF file.

    quant is a name of convert.quantization.QUANTIZATIONS, in any case; threads defaults to the
    processors this process may use. notice gets a line when something takes its time before the
    first progress. Raises ConvertError subclasses; target appears only whole.
    """
    chosen = quantization(quant)
    check_target(Path(target), force)
    checkpoint = open_checkpoint(Path(source))
    return write_gguf(
        checkpoint,
        Path(target),
        chosen,
        threads=threads,
        progress=progress,
        notice=notice,
        force=force,
    )


def write_gguf(
    checkpoint: Checkpoint,
    target: Path,
    chosen: Quantization,
    *,
    threads: int | None = None,
    progress: Callable[[Progress], None] | None = None,
    notice: Callable[[str], None] | None = None,
    force: bool = False,
) -> Report:
    """The same for a checkpoint that is open already."""
    started = time.monotonic()
    tensors = plan(checkpoint, chosen)
    check_target(target, force)
    check_space(target, sum(tensor.nbytes for tensor in tensors))
    kernels = _kernels(tensors, notice)
    with whole_file(target, force) as part:
        start = write_header(part, checkpoint, chosen, tensors)
        with open(part, "r+b", buffering=0) as file:
            _allocate(file.fileno(), start + tensors[-1].offset + tensors[-1].nbytes)
            kernel_seconds = _write_tensors(
                file.fileno(),
                start,
                checkpoint,
                tensors,
                kernels,
                threads or _processors(),
                progress,
            )
        size = part.stat().st_size
    return Report(
        path=target,
        quantization=chosen.name,
        tensors=tensors,
        source_nbytes=checkpoint.source_nbytes,
        target_nbytes=size,
        seconds=time.monotonic() - started,
        kernel_seconds=kernel_seconds,
    )


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _kernels(
    tensors: tuple[PlannedTensor, ...], notice: Callable[[str], None] | None
) -> dict[GGMLQuantizationType, Kernel]:
    """The fastest kernel for each type that gives ggml's bytes; ggml's own for a small model."""
    kinds = {tensor.type for tensor in tensors}
    if sum(tensor.spec.parameters for tensor in tensors) < SMALL:
        return {kind: ggml_kernel(kind) for kind in kinds}

    def on_compile() -> None:
        if notice is not None:
            notice("compiling the quantizer for this machine, this once: some seconds")

    return {kind: choose(kind, on_compile=on_compile).kernel for kind in sorted(kinds)}


def _allocate(descriptor: int, size: int) -> None:
    """Take the disk space at once, so that a full disk shows before the work, not after it."""
    os.ftruncate(descriptor, size)
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(descriptor, 0, size)
        except OSError as error:
            raise TargetError(f"no space for {size / 1e9:.1f} GB: {error.strerror}") from error


def _pieces(checkpoint: Checkpoint, tensors: tuple[PlannedTensor, ...]) -> Iterator[Piece]:
    for tensor in tensors:
        stored = checkpoint.weights.get(tensor.spec)
        if stored is None:  # rope_freqs.weight is computed, not read
            continue
        unit = tensor.spec.head_dim or 1  # heads stay whole, so that their rows can be reordered
        rows = max(unit, PIECE // tensor.spec.columns // unit * unit)
        row_bytes = tensor_nbytes(tensor.type, tensor.spec.columns)
        for first in range(0, tensor.spec.rows, rows):
            count = min(rows, tensor.spec.rows - first)
            yield Piece(tensor, stored, first, count, tensor.offset + first * row_bytes)


def _write_tensors(
    descriptor: int,
    start: int,
    checkpoint: Checkpoint,
    tensors: tuple[PlannedTensor, ...],
    kernels: Mapping[GGMLQuantizationType, Kernel],
    threads: int,
    progress: Callable[[Progress], None] | None,
) -> float:
    """Quantize and write all pieces in order; return the seconds spent in kernels."""
    total_nbytes = sum(tensor.nbytes for tensor in tensors)
    total_parameters = sum(tensor.spec.parameters for tensor in tensors)
    nbytes = parameters = not_finite = 0
    kernel_seconds = 0.0
    waiting: deque[Future[Quantized]] = deque()

    def write_next() -> None:
        nonlocal nbytes, parameters, not_finite, kernel_seconds
        result = waiting.popleft().result()
        piece, spec = result.piece, result.piece.tensor.spec
        not_finite += result.not_finite
        if piece.first_row + piece.rows == spec.rows and not_finite:
            raise CheckpointError(
                f"{piece.stored.file.name}: {spec.source} has {not_finite} values "
                "that are NaN or infinite"
            )
        _write_all(descriptor, result.data, start + piece.offset)
        nbytes += result.data.nbytes
        parameters += piece.parameters
        kernel_seconds += result.seconds
        if progress is not None:
            progress(Progress(spec.name, nbytes, total_nbytes, parameters, total_parameters))

    readers = ThreadPoolExecutor(READERS, thread_name_prefix="read")
    pool = ThreadPoolExecutor(threads, thread_name_prefix="quantize")
    try:
        for piece in _pieces(checkpoint, tensors):
            if len(waiting) >= threads * PIECES_AHEAD:
                write_next()
            kernel = kernels[piece.tensor.type]
            raw = readers.submit(_read, piece)
            waiting.append(pool.submit(_quantize_piece, piece, raw, kernel))
        while waiting:
            write_next()
    finally:
        readers.shutdown(wait=True, cancel_futures=True)
        pool.shutdown(wait=True, cancel_futures=True)
    factors = frequency_factors(checkpoint.config)
    if factors is not None:
        _write_all(descriptor, factors.view(np.uint8), start + tensors[-1].offset)
    return kernel_seconds


def _read(piece: Piece) -> bytearray:
    stored = piece.stored
    row_bytes = piece.tensor.spec.columns * ITEM_SIZES[stored.dtype]
    return stored.file.read(stored.offset + piece.first_row * row_bytes, piece.rows * row_bytes)


def _quantize_piece(piece: Piece, raw: Future[bytearray], kernel: Kernel) -> Quantized:
    spec, kind, dtype = piece.tensor.spec, piece.tensor.type, piece.stored.dtype
    bits: NDArray[Any] = np.frombuffer(raw.result(), np.uint32 if dtype == "F32" else np.uint16)
    bits = bits.reshape(piece.rows, spec.columns)
    if spec.head_dim is not None:
        bits = permute_heads(bits, spec.head_dim)
    if dtype == kind.name:
        return Quantized(piece, bits.view(np.uint8), _not_finite(bits, dtype), 0.0)
    values: NDArray[Any] = bits if dtype == "BF16" else _float32(bits, dtype)
    data = np.empty(tensor_nbytes(kind, piece.parameters), np.uint8)
    started = time.perf_counter()
    largest = kernel(values.reshape(-1), data)
    seconds = time.perf_counter() - started
    if largest >= INFINITY:
        return Quantized(piece, data, _not_finite(bits, dtype), seconds)
    magnitude = float(np.uint32(largest).view(np.float32))
    if magnitude > LARGEST_F16 and kind not in (Type.F32, Type.BF16):
        raise CheckpointError(
            f"{spec.source} has a value of {magnitude:.3g}, too large for {kind.name}"
        )
    return Quantized(piece, data, 0, seconds)


def _not_finite(bits: NDArray[Any], dtype: str) -> int:
    """How many values are NaN or infinite, told by their exponents."""
    infinity = {"BF16": 0x7F80, "F16": 0x7C00, "F32": 0x7F800000}[dtype]
    magnitudes = bits & bits.dtype.type(np.iinfo(bits.dtype).max >> 1)
    return int((magnitudes >= infinity).sum())


def _float32(bits: NDArray[Any], dtype: str) -> NDArray[np.float32]:
    """The values of F16 or F32 bits, exactly."""
    if dtype == "F16":
        return bits.view(np.float16).astype(np.float32)
    return bits.view(np.float32)


def _write_all(descriptor: int, data: NDArray[np.uint8], offset: int) -> None:
    view = memoryview(data.reshape(-1).data)
    while view:
        count = os.pwrite(descriptor, view, offset)
        view, offset = view[count:], offset + count
