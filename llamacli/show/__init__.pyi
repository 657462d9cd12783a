from . import card, rope, structure, tensors
from .card import known_lines
from .config import Source, find_config
from .metadata import find_metadata, table
from .rope import find_rope, rope_of
from .template import find_template
from .vocabulary import find_tokens, read_tokens, vocabulary_file

__all__ = [
    "Source",
    "card",
    "find_config",
    "find_metadata",
    "find_rope",
    "find_template",
    "find_tokens",
    "known_lines",
    "read_tokens",
    "rope",
    "rope_of",
    "structure",
    "table",
    "tensors",
    "vocabulary_file",
]
