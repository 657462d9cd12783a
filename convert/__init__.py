"""From a Hugging Face Llama checkpoint to a GGUF file: a library that prints nothing.

Reading order: config, safetensors, checkpoint, tokenizer, tensors, rope, quantization, kernels,
metadata, writer, pieces, journal, pipeline; remote reads the weights over HTTP.
"""

from convert.errors import (
    CheckpointError,
    ConvertError,
    QuantizationError,
    SourceError,
    TargetError,
    TargetExistsError,
)
from convert.pipeline import Progress, Report, convert
from convert.quantization import QUANTIZATIONS

__all__ = [
    "QUANTIZATIONS",
    "CheckpointError",
    "ConvertError",
    "Progress",
    "QuantizationError",
    "Report",
    "SourceError",
    "TargetError",
    "TargetExistsError",
    "convert",
]
