from . import cache as cache
from .cache import Encode as Encode
from .encode import (
    LLAMA3_TEMPLATE as LLAMA3_TEMPLATE,
    NoTools as NoTools,
    Spelled as Spelled,
    encode_chat as encode_chat,
    encode_raw as encode_raw,
    encode_turns as encode_turns,
    prepare as prepare,
    render as render,
)
from .input import (
    Cut as Cut,
    Errors as Errors,
    Input as Input,
    Text as Text,
    decode as decode,
    fit as fit,
    gather as gather,
    read_bytes as read_bytes,
    read_file as read_file,
    read_stdin as read_stdin,
)
from .messages import (
    NO_PARAMETERS as NO_PARAMETERS,
    RESULT_ROLES as RESULT_ROLES,
    Message as Message,
    arguments_of as arguments_of,
    as_openai as as_openai,
    check_messages as check_messages,
    normal as normal,
    parse_json as parse_json,
    problem as problem,
    read_messages as read_messages,
    read_value as read_value,
)
