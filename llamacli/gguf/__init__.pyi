from .adapter import (
    base_name as base_name,
    check_adapter as check_adapter,
    is_adapter as is_adapter,
    stated_shape as stated_shape,
)
from .check import (
    END_TOKENS as END_TOKENS,
    NORMAL as NORMAL,
    RECURSIVE_PRE_TOKENIZERS as RECURSIVE_PRE_TOKENIZERS,
    LlamaShape as LlamaShape,
    check_architecture as check_architecture,
    check_llama as check_llama,
    check_vocabulary as check_vocabulary,
    read_header as read_header,
)
from .contents import (
    STRING as STRING,
    TEMPLATE_KEY as TEMPLATE_KEY,
    TENSOR_TYPES as TENSOR_TYPES,
    TOOL_TEMPLATE_KEY as TOOL_TEMPLATE_KEY,
    Array as Array,
    GGUFFile as GGUFFile,
    TensorInfo as TensorInfo,
    TensorType as TensorType,
    file_identity as file_identity,
)
from .file import (
    HeaderError as HeaderError,
    padded as padded,
    read_beginning as read_beginning,
    read_gguf as read_gguf,
)
from .merge import joined_header as joined_header
