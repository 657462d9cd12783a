from .adapter import base_name, check_adapter, is_adapter, stated_shape
from .check import (
    CONTROL,
    END_TOKENS,
    NORMAL,
    RECURSIVE_PRE_TOKENIZERS,
    LlamaShape,
    check_architecture,
    check_header,
    check_llama,
    check_vocabulary,
    read_header,
)
from .contents import STRING, Array, GGUFFile, TensorInfo, file_identity
from .cursor import HeaderError
from .file import padded, read_gguf
from .merge import check_part, merged_header
from .remembered import recall, remember
from .types import TENSOR_TYPES, TensorType

__all__ = [
    "CONTROL",
    "END_TOKENS",
    "NORMAL",
    "RECURSIVE_PRE_TOKENIZERS",
    "STRING",
    "TENSOR_TYPES",
    "Array",
    "GGUFFile",
    "HeaderError",
    "LlamaShape",
    "TensorInfo",
    "TensorType",
    "base_name",
    "check_adapter",
    "check_architecture",
    "check_header",
    "check_llama",
    "check_part",
    "check_vocabulary",
    "file_identity",
    "is_adapter",
    "merged_header",
    "padded",
    "read_gguf",
    "read_header",
    "recall",
    "remember",
    "stated_shape",
]
