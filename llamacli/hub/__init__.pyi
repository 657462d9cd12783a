from .checkpoint import (
    Needs as Needs,
    check_disk as check_disk,
    fetch_adapter as fetch_adapter,
    fetch_config as fetch_config,
    has_adapter as has_adapter,
    needs as needs,
    open_checkpoint as open_checkpoint,
    read_outline as read_outline,
)
from .download import pull as pull
from .gguf_names import choose as choose, parse_wanted as parse_wanted
from .repo import Repo as Repo, look_up as look_up
