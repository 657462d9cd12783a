from .check import (
    CONTROL,
    END_TOKENS,
    LlamaShape,
    check_architecture,
    check_llama,
    check_vocabulary,
)
from .file import STRING, Array, GGUFFile, TensorInfo, read_gguf
from .merge import check_part, merged_header, padded
from .remembered import recall, remember
from .types import TENSOR_TYPES, TensorType

__all__ = [
    "CONTROL",
    "END_TOKENS",
    "STRING",
    "TENSOR_TYPES",
    "Array",
    "GGUFFile",
    "LlamaShape",
    "TensorInfo",
    "TensorType",
    "check_architecture",
    "check_llama",
    "check_part",
    "check_vocabulary",
    "merged_header",
    "padded",
    "read_gguf",
    "recall",
    "remember",
]
