from .adapter import (
    ADAPTER_FILES as ADAPTER_FILES,
    WEIGHTS as WEIGHTS,
    is_adapter as is_adapter,
    merged as merged,
    open_adapter as open_adapter,
    read_base_config as read_base_config,
)
from .adapter_config import CONFIG as CONFIG, read_adapter_config as read_adapter_config
from .adapter_file import adapter_type as adapter_type, write_adapter as write_adapter
from .added import MARKERS as MARKERS, is_marker as is_marker
from .checkpoint import (
    INDEX as INDEX,
    SINGLE as SINGLE,
    SMALL_FILES as SMALL_FILES,
    Checkpoint as Checkpoint,
    describe_checkpoint as describe_checkpoint,
    open_checkpoint as open_checkpoint,
    read_config as read_config,
    require_safetensors as require_safetensors,
    shard_names as shard_names,
)
from .config import LlamaConfig as LlamaConfig, RopeScaling as RopeScaling
from .errors import (
    CheckpointError as CheckpointError,
    ConvertError as ConvertError,
    ImportanceError as ImportanceError,
    QuantizationError as QuantizationError,
    SizeError as SizeError,
    SourceError as SourceError,
    TargetError as TargetError,
)
from .header import (
    header_bytes as header_bytes,
    plan_tensors as plan_tensors,
    write_header as write_header,
)
from .importance import (
    Entry as Entry,
    ImportanceMatrix as ImportanceMatrix,
    importances_for as importances_for,
    merged_importances as merged_importances,
)
from .importance_file import (
    read_importance as read_importance,
    write_importance as write_importance,
)
from .journal import (
    Journal as Journal,
    digest as digest,
    partial_path as partial_path,
    resumable_file as resumable_file,
    space_taken as space_taken,
)
from .kernels import (
    dequantize as dequantize,
    library_path as library_path,
)
from .measure import gain as gain
from .metadata import CONFIG_KEY as CONFIG_KEY, GENERATION_KEY as GENERATION_KEY
from .pipeline import Report as Report, convert as convert, write_gguf as write_gguf
from .pool import Pool as Pool, some_ahead as some_ahead
from .pretokenizer import byte_letters as byte_letters
from .quantization import (
    QUANTIZATIONS as QUANTIZATIONS,
    Quantization as Quantization,
    adapted as adapted,
    by_recipe as by_recipe,
    named_quantization as named_quantization,
)
from .recipe import COLUMNS_KEY as COLUMNS_KEY, KEY as KEY, parse_recipe as parse_recipe
from .remote import BUSY as BUSY, Broken as Broken, Location as Location, RemoteFile as RemoteFile
from .safetensors import (
    LocalFile as LocalFile,
    StoredTensor as StoredTensor,
    WeightFile as WeightFile,
    read_header as read_header,
    reading as reading,
)
from .signals import deferred_signals as deferred_signals
from .sized import Fit as Fit, fit as fit
from .small_files import (
    DEFAULT as DEFAULT,
    TOOL_USE as TOOL_USE,
    optional_json as optional_json,
    parse_json as parse_json,
    read_chat_templates as read_chat_templates,
    read_json as read_json,
)
from .special import (
    NAMED_CONTROL_TOKENS as NAMED_CONTROL_TOKENS,
    adds_special_tokens as adds_special_tokens,
    end_tokens as end_tokens,
    special_ids as special_ids,
)
from .stored import read_rows as read_rows
from .system import (
    allowed_processors as allowed_processors,
    library_name as library_name,
    lock as lock,
    name_of as name_of,
    read_all as read_all,
    sync as sync,
    sync_folder as sync_folder,
)
from .target import (
    allocate as allocate,
    check_space as check_space,
    check_target as check_target,
    whole_file as whole_file,
)
from .tensor_writer import Progress as Progress
from .tensors import (
    ROPE_FACTORS as ROPE_FACTORS,
    TensorSpec as TensorSpec,
    frequency_factors as frequency_factors,
    inverse_frequencies as inverse_frequencies,
    llama_tensors as llama_tensors,
    permute_heads as permute_heads,
)
from .tokenizer import (
    Tokenizer as Tokenizer,
    parse_tokenizer as parse_tokenizer,
    parse_vocabulary as parse_vocabulary,
)
