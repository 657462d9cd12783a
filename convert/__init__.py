"""From a Hugging Face Llama checkpoint to a GGUF file: a library that prints nothing.

Reading order: config, safetensors, checkpoint, tokenizer, tensors, rope, mixture, quantization,
importance, kernels, metadata, writer, importance_file, pieces, journal, pipeline; remote reads the
weights over HTTP.
"""

from convert.errors import (
    CheckpointError,
    ConvertError,
    ImportanceError,
    QuantizationError,
    SourceError,
    TargetError,
    TargetExistsError,
)
from convert.importance import ImportanceMatrix
from convert.importance_file import read_importance, write_importance
from convert.pipeline import Progress, Report, convert
from convert.quantization import QUANTIZATIONS

__all__ = [
    "QUANTIZATIONS",
    "CheckpointError",
    "ConvertError",
    "ImportanceError",
    "ImportanceMatrix",
    "Progress",
    "QuantizationError",
    "Report",
    "SourceError",
    "TargetError",
    "TargetExistsError",
    "convert",
    "read_importance",
    "write_importance",
]
