from .adapter import Adapter, is_adapter, open_adapter, read_base_config
from .adapter_config import read_adapter_config
from .adapter_file import AdapterReport, write_adapter
from .checkpoint import Checkpoint, open_checkpoint, read_config
from .config import LlamaConfig
from .errors import (
    CheckpointError,
    ConvertError,
    ImportanceError,
    QuantizationError,
    SizeError,
    SourceError,
    TargetError,
    TargetExistsError,
)
from .importance import ImportanceMatrix
from .importance_file import read_importance, write_importance
from .merge import merged, merged_config
from .pipeline import Progress, Report, convert, write_gguf
from .quantization import QUANTIZATIONS
from .recipe import parse_recipe
from .sized import Fit, fit
from .target import check_target

__all__ = [
    "QUANTIZATIONS",
    "Adapter",
    "AdapterReport",
    "Checkpoint",
    "CheckpointError",
    "ConvertError",
    "Fit",
    "ImportanceError",
    "ImportanceMatrix",
    "LlamaConfig",
    "Progress",
    "QuantizationError",
    "Report",
    "SizeError",
    "SourceError",
    "TargetError",
    "TargetExistsError",
    "check_target",
    "convert",
    "fit",
    "is_adapter",
    "merged",
    "merged_config",
    "open_adapter",
    "open_checkpoint",
    "parse_recipe",
    "read_adapter_config",
    "read_base_config",
    "read_config",
    "read_importance",
    "write_adapter",
    "write_gguf",
    "write_importance",
]
