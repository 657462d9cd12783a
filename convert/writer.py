"""The target file: a plan of where every tensor goes, and a file that appears only when whole."""

import contextlib
import glob
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType

from convert.checkpoint import Checkpoint
from convert.config import LlamaConfig
from convert.errors import TargetError, TargetExistsError
from convert.metadata import add_metadata
from convert.quantization import Quantization, tensor_nbytes, tensor_type
from convert.rope import frequency_factors
from convert.tensors import TensorSpec, llama_tensors

ALIGNMENT = gguf.GGUF_DEFAULT_ALIGNMENT
ROPE_FACTORS = "rope_freqs.weight"


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor of the target: its type and its bytes' place, counted from the data's start."""

    spec: TensorSpec
    type: GGMLQuantizationType
    offset: int
    nbytes: int


def plan(config: LlamaConfig, quantization: Quantization) -> tuple[PlannedTensor, ...]:
    """Every tensor's type and place; rope_freqs.weight, where there is one, comes last."""
    planned, offset = [], 0
    specs = [*llama_tensors(config)]
    factors = frequency_factors(config)
    if factors is not None:
        specs.append(TensorSpec(ROPE_FACTORS, ROPE_FACTORS, factors.shape))
    for spec in specs:
        kind = tensor_type(quantization, spec, config)
        nbytes = tensor_nbytes(kind, spec.parameters)
        planned.append(PlannedTensor(spec, kind, offset, nbytes))
        offset += -(-nbytes // ALIGNMENT) * ALIGNMENT
    return tuple(planned)


def write_header(
    path: Path,
    checkpoint: Checkpoint,
    quantization: Quantization,
    tensors: tuple[PlannedTensor, ...],
) -> int:
    """Write all that precedes the tensors' data to path; return where the data starts, in bytes."""
    writer = gguf.GGUFWriter(None, "llama")
    add_metadata(writer, checkpoint, quantization)
    for tensor in tensors:
        shape = tensor.spec.shape
        dtype = np.dtype(np.float32)
        writer.add_tensor_info(tensor.spec.name, shape, dtype, tensor.nbytes, tensor.type)
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    return -(-path.stat().st_size // ALIGNMENT) * ALIGNMENT


def header_bytes(
    checkpoint: Checkpoint, quantization: Quantization, tensors: tuple[PlannedTensor, ...]
) -> bytes:
    """The same as bytes; the data starts where they end."""
    try:
        with tempfile.TemporaryDirectory(prefix="llamacli-") as folder:
            path = Path(folder) / "header.gguf"
            start = write_header(path, checkpoint, quantization, tensors)
            return path.read_bytes().ljust(start, b"\0")
    except OSError as error:
        raise TargetError(f"the header can't be written: {error.strerror or error}") from error


def check_target(target: Path, force: bool) -> None:
    """Refuse a target that exists (unless force) or whose folder doesn't."""
    if not target.parent.is_dir():
        raise TargetError(f"there is no folder {target.parent}")
    if target.is_dir():
        raise TargetError(f"{target} is a folder; name a file")
    if target.exists() and not force:
        raise TargetExistsError(f"{target} exists already; use --force to replace it")


def check_space(target: Path, nbytes: int) -> None:
    """Refuse to start where the target's disk can't hold nbytes more."""
    free = shutil.disk_usage(target.parent).free
    if free < nbytes:
        raise TargetError(
            f"{target.parent} has {free / 1e9:.1f} GB free, the file needs {nbytes / 1e9:.1f} GB; "
            "free some space or name another folder with -o"
        )


@contextlib.contextmanager
def whole_file(target: Path, force: bool) -> Iterator[Path]:
    """A temporary path beside target that becomes target when the block ends without an error.

    The file is synced before it gets the name; on any error it is removed. Parts that a killed
    conversion left behind are cleared first. Raises TargetError where the system refuses.
    """
    _clear_abandoned(target)
    part, lock = _part_of(target), -1
    try:
        while (lock := _create_locked(part)) < 0:
            part = _part_of(target)
        yield part
        publish(lock, part, target, force)
    except OSError as error:
        raise TargetError(f"{target} can't be written: {error.strerror or error}") from error
    finally:
        try:  # noqa: SIM105 - an interrupt could come in between, as within Path.unlink
            os.unlink(part)  # noqa: PTH108
        except FileNotFoundError:
            pass
        if lock >= 0:
            os.close(lock)


def _part_of(target: Path) -> Path:
    return target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")


def _create_locked(path: Path) -> int:
    """The descriptor of a new file, locked; -1 where another process cleared it before it was."""
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
    with contextlib.suppress(BlockingIOError):
        lock_file(descriptor)
        if os.fstat(descriptor).st_nlink:
            return descriptor
    os.close(descriptor)
    return -1


def publish(descriptor: int, part: Path, target: Path, force: bool) -> None:
    """Give a whole file, open as descriptor, its name, once its bytes are on the disk."""
    os.fsync(descriptor)
    if force:
        os.replace(part, target)
    else:
        _rename_new(part, target)
    _sync_folder(target.parent)


def _rename_new(part: Path, target: Path) -> None:
    """Give part its name unless another conversion took it meanwhile; a link never overwrites."""
    try:
        os.link(part, target)
    except FileExistsError:
        raise TargetExistsError(f"{target} was written by someone else meanwhile") from None
    except OSError:  # a file system without hard links
        check_target(target, force=False)
        os.replace(part, target)


def _clear_abandoned(target: Path) -> None:
    """Remove parts of this target that no living process holds a lock on."""
    for part in target.parent.glob(f".{glob.escape(target.name)}.*.part"):
        with contextlib.suppress(OSError):
            descriptor = os.open(part, os.O_RDWR)
            try:
                lock_file(descriptor)
                part.unlink(missing_ok=True)
            finally:
                os.close(descriptor)


def lock_file(descriptor: int) -> None:
    """An exclusive lock that ends with the process; OSError where another holds it."""
    try:
        import fcntl
    except ImportError:  # Windows: an open file can't be removed there anyway
        return
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
