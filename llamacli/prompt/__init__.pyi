from . import cache
from .cache import Encode
from .encode import NoTools, Spelled, encode_chat, encode_raw, encode_turns
from .input import Cut, Errors, Input, Text, decode, fit, gather, read_bytes, read_file
from .messages import (
    RESULT_ROLES,
    Message,
    arguments_of,
    as_openai,
    check_messages,
    normal,
    parse_json,
    problem,
    read_messages,
)
from .template import LLAMA3_TEMPLATE, prepare, render

__all__ = [
    "LLAMA3_TEMPLATE",
    "RESULT_ROLES",
    "Cut",
    "Encode",
    "Errors",
    "Input",
    "Message",
    "NoTools",
    "Spelled",
    "Text",
    "arguments_of",
    "as_openai",
    "cache",
    "check_messages",
    "decode",
    "encode_chat",
    "encode_raw",
    "encode_turns",
    "fit",
    "gather",
    "normal",
    "parse_json",
    "prepare",
    "problem",
    "read_bytes",
    "read_file",
    "read_messages",
    "render",
]
