from .adapter import fetch_adapter, fetch_config, has_adapter
from .checkpoint import Needs, check_disk, needs, open_checkpoint, read_outline
from .download import pull
from .gguf_names import choose, parse_wanted
from .repo import Repo, look_up

__all__ = [
    "Needs",
    "Repo",
    "check_disk",
    "choose",
    "fetch_adapter",
    "fetch_config",
    "has_adapter",
    "look_up",
    "needs",
    "open_checkpoint",
    "parse_wanted",
    "pull",
    "read_outline",
]
