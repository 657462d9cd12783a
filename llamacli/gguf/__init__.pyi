from .adapter import (
    base_name as base_name,
    check_adapter as check_adapter,
    is_adapter as is_adapter,
    stated_shape as stated_shape,
)
from .check import (
    CONTROL as CONTROL,
    END_TOKENS as END_TOKENS,
    NORMAL as NORMAL,
    RECURSIVE_PRE_TOKENIZERS as RECURSIVE_PRE_TOKENIZERS,
    LlamaShape as LlamaShape,
    check_architecture as check_architecture,
    check_header as check_header,
    check_llama as check_llama,
    check_vocabulary as check_vocabulary,
    read_header as read_header,
)
from .contents import (
    STRING as STRING,
    TEMPLATE_KEY as TEMPLATE_KEY,
    TOOL_TEMPLATE_KEY as TOOL_TEMPLATE_KEY,
    Array as Array,
    GGUFFile as GGUFFile,
    TensorInfo as TensorInfo,
    file_identity as file_identity,
)
from .cursor import HeaderError as HeaderError
from .file import padded as padded, read_gguf as read_gguf
from .merge import check_part as check_part, merged_header as merged_header
from .remembered import recall as recall, remember as remember
from .types import TENSOR_TYPES as TENSOR_TYPES, TensorType as TensorType
