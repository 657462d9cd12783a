from . import card as card, rope as rope, structure as structure, tensors as tensors
from .card import known_lines as known_lines
from .config import Source as Source, find_config as find_config, stored_json as stored_json
from .metadata import (
    find_metadata as find_metadata,
    find_template as find_template,
    find_templates as find_templates,
    table as table,
)
from .rope import find_rope as find_rope, rope_of as rope_of
from .vocabulary import (
    find_tokens as find_tokens,
    folder_vocabulary as folder_vocabulary,
    read_tokens as read_tokens,
    vocabulary_of as vocabulary_of,
)
