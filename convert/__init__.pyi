from .checkpoint import Checkpoint, open_checkpoint, read_config
from .config import LlamaConfig
from .errors import (
    CheckpointError,
    ConvertError,
    QuantizationError,
    SourceError,
    TargetError,
    TargetExistsError,
)
from .pipeline import Progress, Report, convert, write_gguf
from .quantization import QUANTIZATIONS
from .target import check_target

__all__ = [
    "QUANTIZATIONS",
    "Checkpoint",
    "CheckpointError",
    "ConvertError",
    "LlamaConfig",
    "Progress",
    "QuantizationError",
    "Report",
    "SourceError",
    "TargetError",
    "TargetExistsError",
    "check_target",
    "convert",
    "open_checkpoint",
    "read_config",
    "write_gguf",
]
