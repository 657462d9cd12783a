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
from .download import choose as choose, parse_wanted as parse_wanted, pull as pull
from .repo import Repo as Repo, look_up as look_up
