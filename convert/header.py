"""All that precedes the weights in a GGUF file: metadata, vocabulary, and the tensors' places."""

import tempfile
from pathlib import Path

import gguf
import numpy as np

from convert.checkpoint import Checkpoint
from convert.errors import TargetError
from convert.metadata import add_metadata
from convert.plan import ALIGNMENT, PlannedTensor
from convert.quantization import Quantization


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
        fault = f"the header can't be written: {error.strerror or error}"
        raise TargetError(fault, file=tempfile.gettempdir()) from error
