from .adapter import ADAPTER_FILES, WEIGHTS, Adapter, is_adapter, open_adapter, read_base_config
from .adapter_config import CONFIG, read_adapter_config
from .adapter_file import adapter_type, write_adapter
from .added import MARKERS, is_marker
from .checkpoint import (
    INDEX,
    SINGLE,
    SMALL_FILES,
    Checkpoint,
    describe_checkpoint,
    open_checkpoint,
    read_config,
    require_safetensors,
    shard_names,
)
from .config import LlamaConfig, RopeScaling
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
from .header import header_bytes, write_header
from .importance import Entry, ImportanceMatrix, merged_importances
from .importance_file import read_importance, write_importance
from .journal import Journal, digest, partial_path, resumable_file, space_taken
from .kernels import as_float32, dequantize, library_path
from .merge import merged
from .metadata import CONFIG_KEY, GENERATION_KEY
from .pipeline import Report, convert, write_gguf
from .plan import ROPE_FACTORS, plan_tensors
from .quantization import QUANTIZATIONS, Quantization, adapted, by_recipe, named_quantization
from .recipe import KEY, parse_recipe
from .remote import BUSY, Broken, Location, RemoteFile
from .rope import frequency_factors, inverse_frequencies
from .safetensors import ITEM_SIZES, StoredTensor, read_header
from .sized import Fit, fit
from .small_files import optional_json, read_chat_template, read_json
from .special import NAMED_CONTROL_TOKENS, adds_special_tokens, end_tokens, special_ids
from .system import allowed_processors, library_name, lock, read_all, sync, sync_folder
from .target import allocate, check_target
from .tensor_writer import Progress
from .tensors import TensorSpec, llama_tensors, permute_heads
from .tokenizer import Tokenizer, parse_tokenizer, parse_vocabulary
from .weights import LocalFile, WeightFile

__all__ = [
    "ADAPTER_FILES",
    "BUSY",
    "CONFIG",
    "CONFIG_KEY",
    "GENERATION_KEY",
    "INDEX",
    "ITEM_SIZES",
    "KEY",
    "MARKERS",
    "NAMED_CONTROL_TOKENS",
    "QUANTIZATIONS",
    "ROPE_FACTORS",
    "SINGLE",
    "SMALL_FILES",
    "WEIGHTS",
    "Adapter",
    "Broken",
    "Checkpoint",
    "CheckpointError",
    "ConvertError",
    "Entry",
    "Fit",
    "ImportanceError",
    "ImportanceMatrix",
    "Journal",
    "LlamaConfig",
    "LocalFile",
    "Location",
    "Progress",
    "Quantization",
    "QuantizationError",
    "RemoteFile",
    "Report",
    "RopeScaling",
    "SizeError",
    "SourceError",
    "StoredTensor",
    "TargetError",
    "TargetExistsError",
    "TensorSpec",
    "Tokenizer",
    "WeightFile",
    "adapted",
    "adapter_type",
    "adds_special_tokens",
    "allocate",
    "allowed_processors",
    "as_float32",
    "by_recipe",
    "check_target",
    "convert",
    "dequantize",
    "describe_checkpoint",
    "digest",
    "end_tokens",
    "fit",
    "frequency_factors",
    "header_bytes",
    "inverse_frequencies",
    "is_adapter",
    "is_marker",
    "library_name",
    "library_path",
    "llama_tensors",
    "lock",
    "merged",
    "merged_importances",
    "named_quantization",
    "open_adapter",
    "open_checkpoint",
    "optional_json",
    "parse_recipe",
    "parse_tokenizer",
    "parse_vocabulary",
    "partial_path",
    "permute_heads",
    "plan_tensors",
    "read_adapter_config",
    "read_all",
    "read_base_config",
    "read_chat_template",
    "read_config",
    "read_header",
    "read_importance",
    "read_json",
    "require_safetensors",
    "resumable_file",
    "shard_names",
    "space_taken",
    "special_ids",
    "sync",
    "sync_folder",
    "write_adapter",
    "write_gguf",
    "write_header",
    "write_importance",
]
