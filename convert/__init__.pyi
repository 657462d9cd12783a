from .checkpoint import Checkpoint, open_checkpoint, read_config
from .config import LlamaConfig
from .errors import (
    CheckpointError,
    ConvertError,
    ImportanceError,
    QuantizationError,
    SourceError,
    TargetError,
    TargetExistsError,
)
from .importance import ImportanceMatrix
from .importance_file import read_importance, write_importance
from .pipeline import Progress, Report, convert, write_gguf
from .quantization import QUANTIZATIONS
from .target import check_target

__all__ = [
    "QUANTIZATIONS",
    "Checkpoint",
    "CheckpointError",
    "ConvertError",
    "ImportanceError",
    "ImportanceMatrix",
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
    "read_importance",
    "write_gguf",
    "write_importance",
]
